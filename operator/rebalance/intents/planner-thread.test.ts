import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../kube/errors.ts";
import { type PlanInput, unlimited } from "../../planner/policy.ts";
import { threadPlanner } from "./planner-thread.ts";

const sizes = new Float64Array(2).fill(1);
const input: PlanInput = {
  shape: { layers: 1, experts: 2, residentBytes: sizes, storedBytes: sizes },
  ranks: [0, 1].map((rank) => ({ rank, speed: 1, budgetBytes: 10, zone: "", node: String(rank), state: "active" as const })),
  load: Float64Array.from([1, 1]),
  current: [{ hosts: [[0], [1]], weights: [[1000], [1000]] }],
  budget: unlimited,
  minExpertReplicas: 1,
  split: "weighted",
  effort: "quality",
};

test("plans that are abandoned reject, the one being made and one that waits, and others are made all the same", async () => {
  const planner = threadPlanner();
  try {
    const abandoned = new AbortController();
    const abandon = [planner.plan("eplb", input, abandoned.signal), planner.plan("eplb", input, abandoned.signal)];
    const awaited = planner.plan("eplb", input, new AbortController().signal);
    abandoned.abort();
    for (const plan of abandon) await assert.rejects(plan, (error) => hasCode(error, "PlanAbandoned"));
    assert.equal((await awaited).layers.length, 1);
    abandoned.abort(); // plans that have ended cannot be abandoned
  } finally {
    await planner.close();
  }
});
