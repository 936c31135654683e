// The planted model routes as planned: a layer's experts have the rows that a workload's tokens ask for, each layer in an order of its
// own, and workloads differ as they say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { World } from "../../kit/training/local-ranks.ts";
import { fssdpFor, learning } from "./settings.ts";
import { batchOf, plantedModel, type WorkloadName, workloadNames } from "./workloads.ts";

const sizes = { layers: 2, sequences: 4, sequenceLength: 64, microBatches: 2 };

/** Rows that the tokens of a step ask for, by expert. */
function asked(name: WorkloadName, step: number): number[] {
  const rows = new Array<number>(16).fill(0);
  for (const { inputs } of batchOf(name, step, sizes))
    for (const token of inputs) for (const expert of [Math.floor(token / 16), token % 16]) rows[expert]! += 1;
  return rows;
}

const sorted = (rows: ArrayLike<number>): number[] => Array.from(rows).sort((a, b) => b - a);
const worst = (rows: readonly number[]): number => (16 * Math.max(...rows)) / rows.reduce((a, b) => a + b, 0);

test("experts of every layer have the rows that the tokens ask for", async () => {
  const { program, layout, parameters } = plantedModel(sizes.layers, 16);
  const { sequences, sequenceLength, microBatches } = sizes;
  const fssdp = { ...fssdpFor("ep", microBatches), measured: false };
  const options = { program, layout, sequences, sequenceLength, microBatches, ...learning, fssdp, threads: 1 };
  const world = await World.open({ ...options, facts: { node: [0], speed: [1] } }, parameters);
  try {
    const want = asked("skewed", 1);
    const found = await world.step(1, batchOf("skewed", 1, sizes));
    const [first, second] = found!.rows.map((rows) => Array.from(rows));
    for (const rows of [first, second]) {
      const off = sorted(rows!).reduce((sum, value, i) => sum + Math.abs(value - sorted(want)[i]!), 0);
      assert.ok(off <= 0.04 * 2 * sequences * sequenceLength, `${off} rows are elsewhere`);
    }
    assert.notDeepEqual(first, second, "the layers have orders of their own");
    assert.ok(Number.isFinite(found!.loss));
  } finally {
    await world.close();
  }
});

test("balanced is even, bursts come and go, alternating has two orders, and the others are skewed all the time", () => {
  const over = (name: WorkloadName): number[] => Array.from({ length: 16 }, (_, i) => worst(asked(name, i + 1)));
  const of = Object.fromEntries(workloadNames.map((name) => [name, over(name)]));
  assert.ok(Math.max(...of.balanced!) < 1.6, "noise of 512 draws");
  for (const name of ["skewed", "drifting", "long-tail", "alternating"]) assert.ok(Math.min(...of[name]!) > 2, name);
  assert.deepEqual(
    of.bursty!.map((value) => value > 2.5),
    of.bursty!.map((_, i) => (i + 1) % 8 < 2),
  );
  const busiest = (step: number): number => asked("alternating", step).indexOf(Math.max(...asked("alternating", step)));
  assert.deepEqual([busiest(2), busiest(3), busiest(4)], [0, 15, 0]);
  assert.deepEqual(batchOf("skewed", 3, sizes), batchOf("skewed", 3, sizes));
});
