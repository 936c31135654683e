// The weighted sum of expert rows: f32 at every step and in gate order, whatever the order in which rows came back.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { combine, groupPairs } from "./combine.ts";

const f32 = fc.float({ min: -100, max: 100, noNaN: true });

test("each product and each sum is rounded to f32, experts in gate order", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 5 }),
      fc.infiniteStream(f32),
      (rows, topK, width, stream) => {
        const take = (n: number): Float32Array => Float32Array.from({ length: n }, () => stream.next().value as number);
        const [h, gates, pairs] = [take(rows * width), take(rows * topK), take(rows * topK * width)];
        const want = Array.from(h, (start, i) => {
          const [row, j] = [Math.floor(i / width), i % width];
          let acc = start;
          for (let k = 0; k < topK; k++)
            acc = Math.fround(acc + Math.fround(gates[row * topK + k]! * pairs[(row * topK + k) * width + j]!));
          return acc;
        });
        assert.deepEqual([...combine(h, gates, pairs, width)], want);
      },
    ),
  );
});

test("no rows combine to no rows", () => {
  assert.equal(combine(new Float32Array(0), new Float32Array(0), new Float32Array(0), 4).length, 0);
});

test("pairs group by key in order of appearance", () => {
  const keys = [3, 1, 3, 2, 1];
  assert.deepEqual(
    groupPairs(keys.length, (pair) => keys[pair]!),
    [
      { key: 3, pairs: [0, 2] },
      { key: 1, pairs: [1, 4] },
      { key: 2, pairs: [3] },
    ],
  );
});
