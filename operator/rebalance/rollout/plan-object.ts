// A plan as an object: the plan that follows a parent, with its epochs and its hash, the way from an ExpertPlacement spec to a
// PlacementPlan and back, and the newest plan that workers know. No I/O; the hash needs node:crypto.
import { createHash } from "node:crypto";
import type { ExpertPlacementSpec } from "../../../crds/expert-placement.ts";
import { decodeLayer, encodeLayer, type LayerPlacement, type LayerPlan, type PlacementPlan } from "../../../crds/plan.ts";

/** The plan after the parent: layers that are `changed` get the new epoch, the others keep theirs. */
export function nextPlan(
  parent: PlacementPlan | undefined,
  layers: readonly LayerPlan[],
  changed: ReadonlySet<number>,
  world: { readonly deploymentUid: string; readonly modelDigest: string; readonly epoch: number },
): PlacementPlan {
  const placed = layers.map((plan, layer): LayerPlacement => {
    const old = parent?.layers[layer];
    return old && !changed.has(layer) ? old : { layer, epoch: world.epoch, hosts: plan.hosts, shares: plan.shares };
  });
  const unhashed = {
    deploymentUid: world.deploymentUid,
    modelDigest: world.modelDigest,
    epoch: world.epoch,
    parentEpoch: parent?.epoch ?? 0,
    layers: placed,
  };
  // The hash is over all that every rank must agree on, and not over who wrote it when.
  const hash = createHash("sha256");
  hash.update(`${world.deploymentUid}\n${world.epoch}\n${world.modelDigest}\n`);
  for (const layer of placed) {
    const { hosts, shares } = encodeLayer(layer);
    hash.update(`${layer.layer} ${layer.epoch} ${hosts} ${shares}\n`);
  }
  return { ...unhashed, planHash: hash.digest("hex") };
}

export function toSpec(plan: PlacementPlan, extra: Pick<ExpertPlacementSpec, "ranks" | "reason">): ExpertPlacementSpec {
  return {
    deploymentUID: plan.deploymentUid,
    epoch: plan.epoch,
    parentEpoch: plan.parentEpoch,
    planHash: plan.planHash,
    modelDigest: plan.modelDigest,
    ranks: extra.ranks,
    layers: plan.layers.map((layer) => ({ layer: layer.layer, epoch: layer.epoch, ...encodeLayer(layer) })),
    ...(extra.reason ? { reason: extra.reason.slice(0, 1024) } : {}),
  };
}

export function fromSpec(spec: ExpertPlacementSpec): PlacementPlan {
  return {
    deploymentUid: spec.deploymentUID,
    epoch: spec.epoch,
    parentEpoch: spec.parentEpoch,
    planHash: spec.planHash,
    modelDigest: spec.modelDigest,
    layers: spec.layers.map((layer) => ({
      layer: layer.layer,
      epoch: layer.epoch,
      ...decodeLayer(layer.hosts, layer.shares, `spec.layers[${layer.layer}]`),
    })),
  };
}

/** The newest committed placement of every layer that workers know; undefined unless every layer has one. */
export function newestOf(snapshots: readonly PlacementPlan[], layers: number): PlacementPlan | undefined {
  const top = snapshots.toSorted((a, b) => b.epoch - a.epoch)[0];
  if (!top) return undefined;
  const best: LayerPlacement[] = [];
  for (let l = 0; l < layers; l++) {
    const known = snapshots.flatMap((plan) => plan.layers.filter((layer) => layer.layer === l));
    const newest = known.toSorted((a, b) => b.epoch - a.epoch)[0];
    if (!newest) return undefined;
    best.push(newest);
  }
  return { ...top, layers: best };
}
