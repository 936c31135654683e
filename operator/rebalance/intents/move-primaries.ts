// New primaries for experts of lost or leaving ranks, shared by both intents.
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

export function primaryMoves(
  { input, layers, unhosted, later }: Primaries,
  proposal: Pick<Proposal, "kind" | "reason" | "parent" | "atOnce">,
): Proposal {
  assertPlan(input, layers, { unhosted: [...unhosted, ...later] });
  // What did not fit beside the old replicas may fit in the next plan.
  const once = later.length === 0;
  return { ...proposal, layers, limited: false, announced: true, once, input };
}
