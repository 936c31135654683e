import assert from "node:assert/strict";
import { test } from "node:test";
import { modelShape, planInput, rankSpec } from "../../../test/kit/planner/plan-input.ts";
import { hasCode } from "../../kube/errors.ts";
import { inlinePlanner, threadPlanner } from "./planner-thread.ts";

const input = planInput(modelShape(1, 2), [rankSpec(0), rankSpec(1)], { current: [{ hosts: [[0], [1]], weights: [[1000], [1000]] }] });
const wider = { ...input, ranks: [...input.ranks, rankSpec(2)], load: Float64Array.of(9, 1) };

test("plans that are abandoned reject, the one being made and one that waits, and others are made all the same", async () => {
  const planner = threadPlanner();
  try {
    const abandoned = new AbortController();
    const abandon = [planner.plan("eplb", input, { signal: abandoned.signal }), planner.plan("eplb", input, { signal: abandoned.signal })];
    const awaited = planner.plan("eplb", input, { signal: new AbortController().signal });
    abandoned.abort();
    for (const plan of abandon) await assert.rejects(plan, (error) => hasCode(error, "PlanAbandoned"));
    assert.equal((await awaited).layers.length, 1);
    abandoned.abort(); // plans that have ended cannot be abandoned
  } finally {
    await planner.close();
  }
});

test("slow plans of one tenant delay no plan of another, and the first plan and one for new ranks are made on a thread as well", async () => {
  const planner = threadPlanner();
  const slowly = planInput(
    modelShape(64, 512),
    Array.from({ length: 64 }, (_, rank) => rankSpec(rank)),
  );
  const { signal, abort } = ((controller) => ({ signal: controller.signal, abort: () => controller.abort() }))(new AbortController());
  const ends: string[] = [];
  try {
    const slow = Array.from({ length: 5 }, () => planner.plan("hecate", slowly, { signal, owner: "a" }).finally(() => ends.push("a")));
    const other = [
      planner.plan("eplb", input, { owner: "b" }),
      planner.plan("first", input, { owner: "c" }),
      planner.plan("fill", wider, { owner: "d" }),
    ];
    const [, first, filled] = await Promise.all(other);
    assert.deepEqual(ends, []);
    assert.deepEqual(filled?.layers, (await inlinePlanner.plan("fill", wider)).layers);
    assert.ok(filled.layers[0]?.hosts.flat().includes(2));
    assert.deepEqual(
      first?.layers.map(({ hosts }) => hosts),
      [[[0], [1]]],
    );
    abort();
    for (const plan of slow) await assert.rejects(plan, (error) => hasCode(error, "PlanAbandoned"));
  } finally {
    await planner.close();
  }
});
