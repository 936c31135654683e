// A plan as an object: the plan that follows a parent, with epochs, hash and stored form, and the way back from an ExpertPlacement
// spec.
import { createHash } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import type { ExpertPlacementSpec } from "../../../crds/expert-placement.ts";
import { decodeLayer, encodeLayer, type LayerPlacement, type LayerPlan, type PlacementPlan } from "../../../crds/plan.ts";

export const reasonCharsMax = 1024;

/** The limit for a plan's spec as JSON. etcd takes 1.5 MiB per object, of which the status of a thousand ranks needs a quarter. */
export const planObjectBytesMax = 1_200_000;

export function checkPlanBytes(spec: ExpertPlacementSpec): void {
  const bytes = JSON.stringify(spec).length;
  if (bytes <= planObjectBytesMax) return;
  const message =
    `a plan of ${spec.layers.length} layers for ${spec.ranks.length} ranks takes ${bytes} bytes, ${planObjectBytesMax} can be stored: ` +
    "lower spec.experts.minExpertReplicas or spec.experts.memoryPerRank, so that experts have fewer expert replicas, or spec.replicas";
  throw new AppError(message, { code: "PlanTooLarge", operation: "writing a plan" });
}

export type StoredPlan = Omit<ExpertPlacementSpec, "ranks" | "reason">;

/** The plan after the parent, and its stored form: `changed` layers get the new epoch. */
export function nextPlan(
  parent: PlacementPlan | undefined,
  layers: readonly LayerPlan[],
  changed: ReadonlySet<number>,
  { deploymentUid, modelDigest, epoch }: { readonly deploymentUid: string; readonly modelDigest: string; readonly epoch: number },
): { readonly plan: PlacementPlan; readonly spec: StoredPlan } {
  const placed = layers.map((plan, layer): LayerPlacement => {
    const old = parent?.layers[layer];
    return old && !changed.has(layer) ? old : { layer, epoch, hosts: plan.hosts, weights: plan.weights };
  });
  const encoded = placed.map((layer) => ({ layer: layer.layer, epoch: layer.epoch, ...encodeLayer(layer) }));
  // The hash covers all that ranks must agree on, not who wrote it when.
  const hash = createHash("sha256");
  hash.update(`${deploymentUid}\n${epoch}\n${modelDigest}\n`);
  for (const each of encoded) hash.update(`${each.layer} ${each.epoch} ${each.hosts} ${each.weights}\n`);
  const common = { modelDigest, epoch, parentEpoch: parent?.epoch ?? 0, planHash: hash.digest("hex") };
  return { plan: { ...common, deploymentUid, layers: placed }, spec: { ...common, deploymentUID: deploymentUid, layers: encoded } };
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
      ...decodeLayer(layer.hosts, layer.weights, `spec.layers[${layer.layer}]`),
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
