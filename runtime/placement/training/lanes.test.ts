// Lanes and the tree of sums over them: whoever has which lanes, the same lanes meet in the same nodes.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { joinSubtree, laneIntervals, lanesOfWaves, ranksOfLanes, type Subtree, subtreesOf } from "./lanes.ts";

const dealt = fc
  .record({ log: fc.integer({ min: 0, max: 6 }), speed: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 8 }) })
  .map(({ log, speed }) => ({ lanes: 2 ** log, speed: speed.slice(0, 2 ** log) }));

/** The tree over lanes as text: "((0 1) (2 3))". */
const written = (left: string, right: string): string => `(${left} ${right})`;

test("every rank has whole lanes, one at least, in order, and by its speed to one lane", () => {
  fc.assert(
    fc.property(dealt, ({ lanes, speed }) => {
      const intervals = laneIntervals(lanes, speed);
      const total = speed.reduce((a, b) => a + b, 0);
      assert.equal(intervals.length, speed.length);
      assert.equal(intervals.at(-1)!.to, lanes);
      for (const [rank, { from, to }] of intervals.entries()) {
        assert.equal(from, intervals[rank - 1]?.to ?? 0);
        assert.ok(to - from >= 1);
        assert.ok(Math.abs(to - from - 1 - ((lanes - speed.length) * speed[rank]!) / total) < 1);
      }
      assert.equal(ranksOfLanes(intervals).length, lanes);
    }),
  );
});

test("more ranks than micro-batches, and speeds that are no share, are refused with both numbers", () => {
  assert.throws(() => laneIntervals(2, [1, 1, 1]), { code: "BadOption", message: /^3 ranks have 2 micro-batches; give/ });
  for (const speed of [0, -1, Number.NaN, Number.POSITIVE_INFINITY])
    assert.throws(() => laneIntervals(4, [1, speed]), { code: "BadOption", message: new RegExp(`^the speed of rank 1 is ${speed}; give`) });
});

test("sums of ranks join to the one tree over lanes, whatever lanes each has", () => {
  fc.assert(
    fc.property(dealt, ({ lanes, speed }) => {
      const whole: Subtree<string>[] = [];
      for (let lane = 0; lane < lanes; lane++) joinSubtree(whole, { from: lane, size: 1, sum: `${lane}` }, written);
      const joined: Subtree<string>[] = [];
      for (const interval of laneIntervals(lanes, speed)) {
        const own: Subtree<string>[] = [];
        let most = 0;
        for (let lane = interval.from; lane < interval.to; lane++) {
          joinSubtree(own, { from: lane, size: 1, sum: `${lane}` }, (left, right) => {
            most = Math.max(most, own.length + 2); // the two that are added, beside those that wait
            return written(left, right);
          });
          most = Math.max(most, own.length);
        }
        const law = subtreesOf(lanesOfWaves(interval, lanes, lanes));
        assert.equal(law.most, most);
        assert.deepEqual(
          own.map(({ from, size }) => ({ from, size })),
          law.nodes.map(({ from, size }) => ({ from, size })),
        );
        assert.ok(own.length <= 2 * Math.max(1, Math.log2(lanes)));
        for (const node of own) joinSubtree(joined, node, written);
      }
      assert.deepEqual(joined, whole);
      assert.equal(whole.length, 1);
    }),
  );
});

test("waves of lanes give every lane to one rank, and their sums join to the same tree in the order of lanes", () => {
  fc.assert(
    fc.property(dealt, fc.integer({ min: 0, max: 3 }), ({ lanes: wave, speed }, more) => {
      const lanes = wave * 2 ** more;
      const ranks = laneIntervals(wave, speed).map((interval) => lanesOfWaves(interval, wave, lanes));
      assert.deepEqual(
        ranks.flat().sort((a, b) => a - b),
        Array.from({ length: lanes }, (_, lane) => lane),
      );
      const sums = ranks.flatMap((own) => {
        const tree: Subtree<string>[] = [];
        for (const lane of own) joinSubtree(tree, { from: lane, size: 1, sum: `${lane}` }, written);
        return tree;
      });
      const [joined, whole]: [Subtree<string>[], Subtree<string>[]] = [[], []];
      for (const node of sums.sort((a, b) => a.from - b.from)) joinSubtree(joined, node, written);
      for (let lane = 0; lane < lanes; lane++) joinSubtree(whole, { from: lane, size: 1, sum: `${lane}` }, written);
      assert.deepEqual(joined, whole);
    }),
  );
});
