// Micro-batches and the tree of sums over them: whoever has which micro-batches, the same micro-batches meet in the same nodes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { joinSubtree, microBatchesIn, microBatchIntervals, ranksOfMicroBatches, type Subtree, subtreesOf } from "./micro-batches.ts";

const dealt = fc
  .record({ log: fc.integer({ min: 0, max: 6 }), speed: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 8 }) })
  .map(({ log, speed }) => ({ microBatches: 2 ** log, speed: speed.slice(0, 2 ** log) }));

/** The tree over micro-batches as text: "((0 1) (2 3))". */
const written = (left: string, right: string): string => `(${left} ${right})`;

test("every rank has whole micro-batches, one at least, in order, and by its speed to one micro-batch", () => {
  fc.assert(
    fc.property(dealt, ({ microBatches, speed }) => {
      const intervals = microBatchIntervals(microBatches, speed);
      const total = speed.reduce((a, b) => a + b, 0);
      assert.equal(intervals.length, speed.length);
      assert.equal(intervals.at(-1)!.to, microBatches);
      for (const [rank, { from, to }] of intervals.entries()) {
        assert.equal(from, intervals[rank - 1]?.to ?? 0);
        assert.ok(to - from >= 1);
        assert.ok(Math.abs(to - from - 1 - ((microBatches - speed.length) * speed[rank]!) / total) < 1);
      }
      assert.equal(ranksOfMicroBatches(intervals).length, microBatches);
    }),
  );
});

test("more ranks than micro-batches, and speeds that are no share, are refused with both numbers", () => {
  assert.throws(() => microBatchIntervals(2, [1, 1, 1]), { code: "BadOption", message: /^3 ranks have 2 micro-batches; give/ });
  for (const speed of [0, -1, Number.NaN, Number.POSITIVE_INFINITY])
    assert.throws(() => microBatchIntervals(4, [1, speed]), {
      code: "BadOption",
      message: new RegExp(`^the speed of rank 1 is ${speed}; give`),
    });
});

test("sums of ranks join to the one tree over micro-batches, whatever micro-batches each has", () => {
  fc.assert(
    fc.property(dealt, ({ microBatches, speed }) => {
      const whole: Subtree<string>[] = [];
      for (let microBatch = 0; microBatch < microBatches; microBatch++)
        joinSubtree(whole, { from: microBatch, size: 1, sum: `${microBatch}` }, written);
      const joined: Subtree<string>[] = [];
      for (const interval of microBatchIntervals(microBatches, speed)) {
        const own: Subtree<string>[] = [];
        let most = 0;
        for (let microBatch = interval.from; microBatch < interval.to; microBatch++) {
          joinSubtree(own, { from: microBatch, size: 1, sum: `${microBatch}` }, (left, right) => {
            most = Math.max(most, own.length + 2); // the two that are added, beside those that wait
            return written(left, right);
          });
          most = Math.max(most, own.length);
        }
        const law = subtreesOf(microBatchesIn(interval, microBatches, microBatches));
        assert.equal(law.most, most);
        assert.deepEqual(
          own.map(({ from, size }) => ({ from, size })),
          law.nodes.map(({ from, size }) => ({ from, size })),
        );
        assert.ok(own.length <= 2 * Math.max(1, Math.log2(microBatches)));
        for (const node of own) joinSubtree(joined, node, written);
      }
      assert.deepEqual(joined, whole);
      assert.equal(whole.length, 1);
    }),
  );
});

test("accumulation steps give every micro-batch to one rank, and their sums join to the same tree in the order of micro-batches", () => {
  fc.assert(
    fc.property(dealt, fc.integer({ min: 0, max: 3 }), ({ microBatches: atOnce, speed }, more) => {
      const microBatches = atOnce * 2 ** more;
      const ranks = microBatchIntervals(atOnce, speed).map((interval) => microBatchesIn(interval, atOnce, microBatches));
      assert.deepEqual(
        ranks.flat().sort((a, b) => a - b),
        Array.from({ length: microBatches }, (_, microBatch) => microBatch),
      );
      const sums = ranks.flatMap((own) => {
        const tree: Subtree<string>[] = [];
        for (const microBatch of own) joinSubtree(tree, { from: microBatch, size: 1, sum: `${microBatch}` }, written);
        return tree;
      });
      const [joined, whole]: [Subtree<string>[], Subtree<string>[]] = [[], []];
      for (const node of sums.sort((a, b) => a.from - b.from)) joinSubtree(joined, node, written);
      for (let microBatch = 0; microBatch < microBatches; microBatch++)
        joinSubtree(whole, { from: microBatch, size: 1, sum: `${microBatch}` }, written);
      assert.deepEqual(joined, whole);
    }),
  );
});
