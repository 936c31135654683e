// The policy that ignores load: every expert once, primaries dealt round-robin. The baseline that others are compared with.
import type { PlacementPolicy } from "../../operator/planner/policy.ts";
import { firstPlan } from "../../operator/planner/repair.ts";

export const uniform: PlacementPolicy = {
  name: "uniform",
  summary: "one primary per expert, dealt round-robin; never moves for load",
  keepsCurrent: true,
  cellsMax: Number.POSITIVE_INFINITY,
  plan(input) {
    if (input.current) return { layers: input.current, reason: "uniform keeps the placement whatever the load" };
    return { layers: firstPlan(input), reason: "primaries dealt round-robin by free bytes" };
  },
};
