import assert from "node:assert/strict";
import { test } from "node:test";
import { type PlanInput, unlimited } from "../policy.ts";
import { phaseLoads } from "./phases.ts";

const bytes = new Float64Array(4).fill(1);
const input: PlanInput = {
  shape: { layers: 2, experts: 2, residentBytes: bytes, storedBytes: bytes },
  ranks: [0, 1].map((rank) => ({ rank, speed: 1, budgetBytes: 9, zone: "", node: "", state: "active" as const })),
  load: new Float64Array(4),
  current: [0, 1].map(() => ({ hosts: [[0], [1]], weights: [[1000], [1000]] })),
  budget: unlimited,
  minExpertReplicas: 1,
  split: "weighted",
  effort: "fast",
};
const window = (prefill: number[], decode: number[]) => ({
  routedByPhase: { prefill: Float64Array.from(prefill), decode: Float64Array.from(decode) },
});

test("each phase is measured by itself: what is even in sum may be uneven in both", () => {
  const found = phaseLoads(input, window([900, 100, 500, 500], [100, 900, 500, 500]), 100);
  assert.deepEqual(found, [
    { phase: "prefill", selections: 2000, worst: 1.8, mean: 1.4 },
    { phase: "decode", selections: 2000, worst: 1.8, mean: 1.4 },
  ]);
});

test("layers with few selections say nothing, nor does a phase without any", () => {
  const found = phaseLoads(input, window([3, 0, 500, 500], [0, 0, 0, 0]), 100);
  assert.deepEqual(found, [{ phase: "prefill", selections: 1003, worst: 1, mean: 1 }]);
});
