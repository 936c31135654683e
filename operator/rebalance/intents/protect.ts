// The intent that adds replicas of experts below spec.experts.minExpertReplicas, whatever the load and mode. Experts that do not fit
// the present members are not retried.
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

const protectMovesMax = 1024;

export class Protect implements Intent {
  readonly kind = "protect";
  readonly cost = "plan";
  readonly holdsUpOthers = false;
  readonly onWindow = false;
  /** The number of experts that did not fit these members. */
  #overfull = { key: "", count: 0 };

  wanted(seen: Observed): boolean {
    const { plan, ranks, belowFloor: below } = seen;
    if (!plan || ranks.filter((rank) => rank.state === "active").length <= 1) return false;
    return below > (this.#overfull.key === keyOf(seen) ? this.#overfull.count : 0);
  }

  make(seen: Observed, { load, ports }: Tools): Made {
    const { plan, spec } = seen;
    if (!load || !plan) return done;
    const { minExpertReplicas } = spec.experts;
    const input = load.input(seen, { even: spec.rebalancing.mode === "Off" });
    const { layers, added, missing } = nearerToFloor(input, plan.layers);
    this.#overfull = { key: keyOf(seen), count: missing };
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

function keyOf({ members, spec }: Observed): string {
  return `${members} ${spec.experts.minExpertReplicas}`;
}

/**
 * The next step to the floor, without the input's budget. `missing` counts the experts that lack capacity; 0 while plans still make
 * progress.
 */
function nearerToFloor(input: PlanInput, layers: readonly LayerPlan[]) {
  const bounded = { ...input, budget: { ...unlimited, maxMoves: protectMovesMax } };
  const floored = withFloor(bounded, layers);
  const next = schedulable(bounded, floored.layers);
  const below = belowFloor(bounded, next);
  const missing = below < belowFloor(bounded, layers) ? 0 : below;
  return { layers: next, added: floored.added, missing };
}
