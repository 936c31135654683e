// The registry of placement policies, typed by the names of the CRD, and the one way to run a policy: current placement
// made whole, plan made, invariants checked. Pure.
import type { PolicyName } from "../../crds/policies.ts";
import { eplb } from "./policies/eplb.ts";
import { hecate } from "./policies/hecate.ts";
import { incremental } from "./policies/incremental.ts";
import { uniform } from "./policies/uniform.ts";
import type { PlacementPolicy, PlanInput, PlanOutput } from "./policy.ts";
import { repairPlan } from "./repair.ts";
import { assertPlan } from "./validate.ts";

export const policies: Partial<Readonly<Record<PolicyName, PlacementPolicy>>> = { uniform, incremental, hecate, eplb };

/** Runs a policy on a placement that may name ranks that are gone; throws `InvalidPlan` rather than return a broken plan. */
export async function makePlan(policy: PlacementPolicy, input: PlanInput): Promise<PlanOutput> {
  const repaired = input.current ? repairPlan(input, input.current) : undefined;
  const whole: PlanInput = repaired ? { ...input, current: repaired.layers } : input;
  const output = await policy.plan(whole);
  assertPlan(whole, output.layers, repaired ? { unhosted: repaired.unhosted } : {});
  return output;
}
