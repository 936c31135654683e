// What a planner is asked: all that a test does not say is as in a small deployment on equal ranks, under an even load.
import { type ModelShape, type PlanInput, type RankSpec, unlimited } from "../../../operator/planner/policy.ts";

export const rankSpec = (rank: number, more: Partial<RankSpec> = {}): RankSpec => ({
  ...{ rank, speed: 1, budgetBytes: 100, zone: "z", node: `n${rank}`, state: "active" as const },
  ...more,
});

/** Experts that all have so many bytes. */
export function modelShape(layers: number, experts: number, bytes = 1): ModelShape {
  const each = new Float64Array(layers * experts).fill(bytes);
  return { layers, experts, residentBytes: each, storedBytes: each };
}

export const planInput = (shape: ModelShape, ranks: readonly RankSpec[], more: Partial<PlanInput> = {}): PlanInput => ({
  ...{ shape, ranks, load: new Float64Array(shape.layers * shape.experts).fill(1), current: undefined, budget: unlimited },
  ...{ minExpertReplicas: 1, split: "weighted", effort: "quality" },
  ...more,
});
