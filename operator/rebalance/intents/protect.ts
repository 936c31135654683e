// The intent for expert replicas on other nodes of experts that have fewer than spec.experts.minExpertReplicas, whatever load, trigger and mode say. It
// remembers for how many the present members had no room, so that these are not tried again and again.
import type { LayerPlan } from "../../../crds/plan.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import { belowFloor, withFloor } from "../../planner/expert-replicas.ts";
import { schedulable } from "../../planner/index.ts";
import { type PlanInput, unlimited } from "../../planner/policy.ts";
import { orphans } from "../../planner/repair.ts";
import { assertPlan } from "../../planner/validate.ts";
import type { Observed } from "../observed.ts";
import { done } from "./attempts.ts";
import type { Intent, Made, Tools } from "./intent.ts";

/** The most expert replicas that one plan adds, so that more urgent plans do not wait for all of them. */
const protectMovesMax = 1024;

export class Protect implements Intent {
  readonly kind = "protect";
  readonly cost = "plan";
  readonly holdsUpOthers = false;
  readonly onWindow = false;
  /** The number of experts for which the members of this key had no room. */
  #roomless = { key: "", count: 0 };

  wanted(seen: Observed): boolean {
    const { plan, ranks, belowFloor: below } = seen;
    if (!plan || ranks.filter((rank) => rank.state === "active").length <= 1) return false;
    return below > (this.#roomless.key === keyOf(seen) ? this.#roomless.count : 0);
  }

  make(seen: Observed, { load, ports }: Tools): Made {
    const { plan, spec } = seen;
    if (!load || !plan) return done;
    const { minExpertReplicas } = spec.experts;
    const input = load.input(seen, { even: spec.rebalancing.mode === "Off" });
    const { layers, added, missing } = nearerToFloor(input, plan.layers);
    this.#roomless = { key: keyOf(seen), count: missing };
    if (missing > 0) {
      const message = `${missing} experts have fewer than ${minExpertReplicas} expert replicas on different nodes and no room for more: raise experts.memoryPerRank or replicas`;
      ports.event(seen.world, "Warning", "ExpertReplicasMissing", message);
    }
    if (diffPlans(plan.layers, layers, () => 0).moves.length === 0) return done;
    assertPlan(input, layers, { unhosted: orphans(input, plan.layers) });
    const reason = `${added} expert replicas, so that experts have ${minExpertReplicas} on different nodes`;
    return { kind: this.kind, layers, reason, parent: plan, limited: true, announced: true, once: false, input };
  }
}

/** A key for the members and the floor. */
function keyOf({ members, spec }: Observed): string {
  return `${members} ${spec.experts.minExpertReplicas}`;
}

/**
 * The next step up to the floor, whatever the move budget of the input says. `missing` counts the experts that stay below it for
 * want of room; it is 0 while plans still bring it nearer.
 */
function nearerToFloor(input: PlanInput, layers: readonly LayerPlan[]) {
  const bounded = { ...input, budget: { ...unlimited, maxMoves: protectMovesMax } };
  const floored = withFloor(bounded, layers);
  const next = schedulable(bounded, floored.layers);
  const below = belowFloor(bounded, next);
  // Expert replicas that this plan leaves out, for its length or for want of room beside the old ones, the next one may bring.
  const missing = below < belowFloor(bounded, layers) ? 0 : below;
  return { layers: next, added: floored.added, missing };
}
