// The order of samples: every epoch is a permutation, other seeds and epochs give others, and schedules rise and fall where they say.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { rateOf, type Schedule } from "../optimizers/schedule.ts";
import { permuted, sampleAt } from "./batch.ts";

test("each epoch reads every sample once", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 700 }), fc.nat(2 ** 31 - 1), fc.nat(5), (count, seed, epoch) => {
      const seen = new Set(Array.from({ length: count }, (_, i) => sampleAt(epoch * count + i, count, seed)));
      assert.equal(seen.size, count);
      for (const sample of seen) assert.ok(sample >= 0 && sample < count);
    }),
    { numRuns: 60 },
  );
});

test("seeds and epochs read in other orders, far from the files'", () => {
  const order = (seed: number, epoch: number): number[] => Array.from({ length: 1000 }, (_, i) => permuted(i, 1000, seed, epoch));
  const same = (a: number[], b: number[]): number => a.filter((value, i) => value === b[i]).length;
  const first = order(1, 0);
  for (const other of [order(2, 0), order(1, 1), Array.from({ length: 1000 }, (_, i) => i)]) assert.ok(same(first, other) < 20);
});

test("large counts stay in range", () => {
  const count = 2 ** 40 + 12345;
  for (let i = 0; i < 100; i++) {
    const sample = permuted(count - 1 - i, count, 7, 3);
    assert.ok(Number.isInteger(sample) && sample >= 0 && sample < count, `${sample}`);
  }
});

test("the rate rises over warm-up, then stays or falls by a cosine to its floor", () => {
  const cosine: Schedule = { name: "cosine", rate: 2, warmup: 4, steps: 104, floor: 0.1 };
  assert.equal(rateOf(cosine, 1), 0.5);
  assert.equal(rateOf(cosine, 4), 2);
  assert.equal(rateOf(cosine, 5), 2);
  assert.ok(Math.abs(rateOf(cosine, 55) - 1.1) < 1e-9);
  assert.ok(rateOf(cosine, 104) < 0.21);
  for (let step = 6; step <= 104; step++) assert.ok(rateOf(cosine, step) < rateOf(cosine, step - 1));
  assert.equal(rateOf({ ...cosine, name: "constant" }, 104), 2);
});
