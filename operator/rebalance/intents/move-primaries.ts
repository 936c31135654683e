// New primaries for experts of ranks that are lost or leave: the plan that the intents for both make, before each says what it means that
// some have no room. It decides nothing of its own.
import type { PlacementPlan } from "../../../crds/plan.ts";
import { type PlanInput, unlimited } from "../../planner/policy.ts";
import { type Repaired, repairPlan } from "../../planner/repair.ts";
import { assertPlan } from "../../planner/validate.ts";
import type { Proposal } from "../rollout/proposal.ts";

interface Primaries extends Repaired {
  readonly input: PlanInput;
}

export function newPrimaries(input: PlanInput, plan: PlacementPlan): Primaries {
  const unbounded = { ...input, budget: unlimited };
  return { input: unbounded, ...repairPlan(unbounded, plan.layers, { carriedOut: true }) };
}

/** `said`: the words of the plan. */
export function primaryMoves(
  { input, layers, unhosted, later }: Primaries,
  proposal: Pick<Proposal, "kind" | "reason" | "parent">,
): Proposal {
  assertPlan(input, layers, { unhosted: [...unhosted, ...later] });
  // What did not fit beside the old expert replicas on their way finds room in the next plan, with the same members.
  const once = later.length === 0;
  return { ...proposal, layers, limited: false, announced: true, once, input };
}
