// The weighted sum of expert rows: f32 at every step and in gate order, whatever the order in which rows came back.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { combine, groupPairs, placeSums, sumPairs } from "./combine.ts";

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
        assert.deepEqual([...combine(h, gates, pairs, { width, stride: width })], want);
      },
    ),
  );
});

test("sums of some places and rows of pairs of others combine to what all rows of pairs do", () => {
  const whole = fc.integer({ min: -8, max: 8 }); // no sum of these is rounded, in whatever order
  const shape = fc.record({
    rows: fc.integer({ min: 1, max: 5 }),
    topK: fc.integer({ min: 1, max: 8 }),
    width: fc.integer({ min: 1, max: 3 }),
  });
  const placed = fc.infiniteStream(fc.nat({ max: 3 }));
  fc.assert(
    fc.property(shape, fc.infiniteStream(whole), placed, fc.subarray([0, 1, 2, 3]), ({ rows, topK, width }, values, places, summing) => {
      const take = (n: number): Float32Array => Float32Array.from({ length: n }, () => values.next().value as number);
      const [h, gates, pairs] = [take(rows * width), take(rows * topK).map((gate) => gate / 16), take(rows * topK * width)];
      const want = combine(h.slice(), gates.slice(), pairs, { width, stride: width });
      const came = new Float32Array(pairs.length);
      const changed = gates.slice();
      for (const { key, pairs: at } of groupPairs(rows * topK, () => places.next().value as number)) {
        const asked = [...new Set(at.map((pair) => Math.floor(pair / topK)))];
        const pairRows = Uint32Array.from(at, (pair) => asked.indexOf(Math.floor(pair / topK)));
        const answered = Float32Array.from(at.flatMap((pair) => [...pairs.subarray(pair * width, (pair + 1) * width)]));
        if (summing.includes(key)) {
          const sums = sumPairs(answered, { pairRows, gates: Float32Array.from(at, (pair) => gates[pair]!) }, asked.length, width);
          placeSums({ gates: changed, pairs: came }, { at, pairRows }, sums, width);
        } else for (const [i, pair] of at.entries()) came.set(answered.subarray(i * width, (i + 1) * width), pair * width);
      }
      assert.deepEqual(
        combine(h, changed, came, { width, stride: width }).map((value) => value + 0),
        want.map((value) => value + 0),
      ); // -0 is 0
    }),
  );
});

test("no rows combine to no rows", () => {
  assert.equal(combine(new Float32Array(0), new Float32Array(0), new Float32Array(0), { width: 4, stride: 4 }).length, 0);
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
