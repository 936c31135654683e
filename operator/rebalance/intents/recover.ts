// What a new leader, or one whose ExpertPlacement is gone, makes of what it finds: the stored plan, and the committed
// placements that workers report. Pure.
import type { PlacementPlan } from "../../../crds/plan.ts";
import { sameLayer } from "../../../runtime/placement/diff.ts";
import { newestOf } from "../rollout/plan-object.ts";

export type Recovery =
  /** Nothing is known anywhere. */
  | { readonly kind: "nothing" }
  /** The stored plan holds everywhere, or nobody remembers another. */
  | { readonly kind: "settled"; readonly committed: PlacementPlan }
  /** A stored plan is unfinished: go on from here. */
  | {
      readonly kind: "resume";
      readonly parent: PlacementPlan | undefined;
      readonly plan: PlacementPlan;
      readonly committed: ReadonlySet<number>;
    }
  /** Workers know a plan that is not stored: write it down again. */
  | { readonly kind: "rewrite"; readonly committed: PlacementPlan };

/**
 * `silent`: a connected worker did not say what it has committed. It may be any layer of the stored plan: these only go forward.
 */
export function recover(stored: PlacementPlan | undefined, snapshots: readonly PlacementPlan[], layers: number, silent = false): Recovery {
  const known = newestOf(snapshots, layers);
  if (!stored) return known ? { kind: "rewrite", committed: known } : { kind: "nothing" };
  if (!known && silent) return { kind: "resume", parent: undefined, plan: stored, committed: new Set(stored.layers.keys()) };
  if (!known) return { kind: "settled", committed: stored };
  if (known.epoch > stored.epoch) return { kind: "rewrite", committed: known };
  const committed = new Set<number>();
  let open = false;
  for (const [l, layer] of stored.layers.entries()) {
    const held = known.layers[l];
    if (!held || layer.epoch <= held.epoch) {
      // Committed somewhere; whether everywhere, only a commit to all can tell. It is idempotent.
      if (
        layer.epoch === stored.epoch &&
        snapshots.some((plan) => (plan.layers.find(({ layer: at }) => at === l)?.epoch ?? 0) < layer.epoch)
      ) {
        committed.add(l);
        open = true;
      }
      continue;
    }
    if (sameLayer(layer, held)) continue;
    open = true;
    if (silent) committed.add(l);
  }
  if (!open) return { kind: "settled", committed: stored };
  const parent: PlacementPlan = { ...known, layers: known.layers };
  return { kind: "resume", parent, plan: stored, committed };
}
