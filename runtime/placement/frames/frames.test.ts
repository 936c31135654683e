// Cutting a frame into parts and putting the answers together gives what the whole frame would have given.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { answerFault, frameFault, partOf, splitPairs } from "./frames.ts";
import { type Pairs, scatterRows } from "./pairs.ts";

const hidden = 3;
const work: fc.Arbitrary<Pairs> = fc.integer({ min: 1, max: 8 }).chain((rows) =>
  fc.array(fc.tuple(fc.nat({ max: rows - 1 }), fc.nat({ max: 5 })), { minLength: 1, maxLength: 30 }).map((pairs) => ({
    rows: Float32Array.from({ length: rows * hidden }, (_, i) => i + 1),
    pairRows: Uint32Array.from(pairs, ([row]) => row),
    pairExperts: Uint32Array.from(pairs, ([, expert]) => expert),
  })),
);
/** Stands for the experts: y = x * (expert + 2). */
function compute({ rows, pairRows, pairExperts }: Pairs): Float32Array {
  const out = new Float32Array(pairRows.length * hidden);
  pairRows.forEach((row, pair) => {
    for (let i = 0; i < hidden; i++) out[pair * hidden + i] = rows[row * hidden + i]! * (pairExperts[pair]! + 2);
  });
  return out;
}

test("any split of a frame into parts computes the same answer", () => {
  fc.assert(
    fc.property(work, fc.func(fc.nat({ max: 3 })), fc.integer({ min: 1, max: 100 }), (whole, colour, bytesMax) => {
      const out = new Float32Array(whole.pairRows.length * hidden);
      const groups = [0, 1, 2, 3].map((wanted) => [...whole.pairRows.keys()].filter((pair) => colour(pair) === wanted));
      for (const pairs of groups.flatMap((group) => splitPairs(group, hidden, bytesMax))) {
        const part = partOf(whole, hidden, pairs);
        assert.ok(part.rows.length <= whole.rows.length);
        scatterRows(out, hidden, pairs, compute(part));
      }
      assert.deepEqual(out, compute(whole));
    }),
  );
});

test("parts respect the size limit, and one pair always fits", () => {
  assert.deepEqual(splitPairs([0, 1, 2, 3, 4], 2, 16), [[0, 1], [2, 3], [4]]);
  assert.deepEqual(splitPairs([0, 1], 1000, 16), [[0], [1]]);
});

test("a sound frame has no fault", () => {
  const frame = { layer: 0, hidden: 4, rowBytes: 32, pairRows: [0, 1, 1], pairExperts: [2, 0, 1] };
  assert.equal(frameFault(frame, { layers: 1, experts: 3, hidden: 4 }), undefined);
});

test("an answer beyond the limit has a fault that says how large it would be; what the sender's own cutting leaves has none", () => {
  assert.match(answerFault(5, 4, 64) ?? "", /pair_rows: the answer to 5 pairs has 80 bytes, more than 64/);
  for (const part of splitPairs([0, 1, 2, 3, 4], 4, 64)) assert.equal(answerFault(part.length, 4, 64), undefined);
  assert.equal(answerFault(1, 1_000, 64), undefined, "one pair always fits");
});
