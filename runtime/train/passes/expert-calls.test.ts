// Calls of experts: as many micro-batches' rows as the expert allows, and backward one call at a time, since what it gives holds memory.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TrainableExpert } from "../../compute/training.ts";
import { ExpertCalls } from "./expert-calls.ts";

const width = 2;

/** An expert whose result is its rows, and that writes down the rows of each call. */
function recorded(rowsAtOnce: number) {
  const events: string[] = [];
  const expert: TrainableExpert = {
    ...{ keeps: 0, rowsAtOnce, rowsInPlace: 0 },
    async forward(x) {
      events.push(`forward ${x.length / width}`);
      return x;
    },
    async backward({ dOut, gates }) {
      events.push(`backward ${gates.length}`);
      return { dx: dOut, dGates: gates, addTo: async (_sums, from, to) => void events.push(`sum ${from}..${to}`) };
    },
  };
  const unit = { expert: 0, from: 0, to: 1, parameters: [] };
  const calls = new ExpertCalls({ expert, width, budget: undefined, ask() {}, unit: () => unit, weights: () => ({}) });
  return { calls, events };
}

/** Three micro-batches of one expert. */
const pieces = () =>
  [3, 2, 4].map((rows, microBatch) => {
    const floats = (many: number): Float32Array => new Float32Array(rows * many).fill(microBatch);
    const taken: Float32Array[] = [];
    const given = { x: () => floats(width), dOut: () => floats(width), gates: () => floats(1) };
    return { block: { microBatch, expert: 0, rows }, ...given, taken, take: (...parts: Float32Array[]) => void taken.push(...parts) };
  });

test("micro-batches share a call as far as the expert allows, and each has its own part of what it gives", async () => {
  for (const [rowsAtOnce, want] of [
    [8, ["forward 5", "forward 4"]],
    [0, ["forward 3", "forward 2", "forward 4"]],
  ] as const) {
    const { calls, events } = recorded(rowsAtOnce);
    const all = pieces();
    await calls.forward(all);
    assert.deepEqual(events, want);
    for (const { taken, x } of all) assert.deepEqual(taken, [x()]);
  }
});

test("backward of a call begins when what the one before gave is added, and gives each micro-batch its gradients", async () => {
  const { calls, events } = recorded(8);
  const all = pieces();
  for await (const gradients of calls.backward(all)) for (const { add } of gradients) await add(new Float32Array(1));
  assert.deepEqual(events, ["backward 5", "sum 0..3", "sum 3..5", "backward 4", "sum 0..4"]);
  for (const { taken, dOut, gates } of all) assert.deepEqual(taken, [dOut(), gates()]);
});
