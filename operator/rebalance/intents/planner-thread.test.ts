import assert from "node:assert/strict";
import { test } from "node:test";
import { modelShape, planInput, rankSpec } from "../../../test/kit/planner/plan-input.ts";
import { hasCode } from "../../kube/errors.ts";
import { threadPlanner } from "./planner-thread.ts";

const input = planInput(modelShape(1, 2), [rankSpec(0), rankSpec(1)], { current: [{ hosts: [[0], [1]], weights: [[1000], [1000]] }] });

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
