// Laws of the autoscaler over any course of loads, outages and operations, in virtual time.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { autoscaleOf, look, scales, servingRanks, start } from "../../../../test/kit/deployment/autoscale.ts";
import type { History } from "../../core/memory.ts";
import { type AutoscaleInput, askMs, decide, remembered } from "./desired-ranks.ts";

const spec = fc
  .record({ min: fc.integer({ min: 1, max: 3 }), up: fc.integer({ min: 1, max: 4 }), down: fc.integer({ min: 1, max: 3 }) })
  .map(({ min, up, down }) =>
    autoscaleOf({ min, behaviour: { scaleUp: { maxRanks: up }, scaleDown: { stabilizationWindow: "1m", maxRanks: down, period: "20s" } } }),
  );
/** Pieces of 50 s, each with a load and what is wrong meanwhile. */
const pieces = fc.array(fc.record({ load: fc.nat(1_500), trouble: fc.constantFrom("none", "none", "silent", "Roll", "Repair") }), {
  minLength: 4,
  maxLength: 12,
});
type Pieces = typeof pieces extends fc.Arbitrary<infer T> ? T : never;

function troubled(course: Pieces, replicas: () => number) {
  return (second: number): Partial<AutoscaleInput> => {
    const { trouble } = course[Math.floor(second / 50)] ?? { trouble: "none" };
    if (trouble === "none") return {};
    if (trouble !== "silent") return { operation: trouble as "Roll" };
    return { serving: servingRanks(replicas(), 0).map((one) => ({ ...one, signals: undefined })) };
  };
}

test("every number is within its range, every step within its limit, and none is made on what is not known", () => {
  fc.assert(
    fc.property(spec, pieces, fc.integer({ min: 1, max: 8 }), (spec, course, ranks) => {
      const { scaleUp, scaleDown } = spec.behaviour;
      const { steps } = scales(spec, {
        ranks,
        seconds: course.length * 50,
        load: (second) => course[Math.floor(second / 50)]?.load ?? 0,
        look: troubled(course, () => 3),
      });
      for (const { second, from, to, decision } of steps) {
        assert.ok(to >= spec.min && to <= spec.max, `${to} ranks`);
        if (from < spec.min) continue; // put right at once
        assert.ok(to - from <= scaleUp.maxRanks && from - to <= scaleDown.maxRanks, `${from} -> ${to}`);
        assert.equal(decision.verdict.status, "True");
        const { trouble } = course[Math.floor(second / 50)] ?? {};
        assert.notEqual(trouble, "silent");
        if (to < from) assert.equal(trouble, "none", "no rank is taken away beside an operation");
      }
      const downs = steps.filter(({ from, to }) => to < from).map(({ second }) => second);
      assert.ok(
        downs.every((second, i) => second >= 60 && second - (downs[i - 1] ?? -20) >= 20),
        String(downs),
      );
    }),
    { numRuns: 60 },
  );
});

test("a constant load is followed in one direction, and then nothing changes any more", () => {
  fc.assert(
    fc.property(spec, fc.nat(1_500), fc.integer({ min: 1, max: 8 }), (spec, load, ranks) => {
      const { steps } = scales(spec, { ranks, seconds: 900, load: () => load });
      const ups = steps.filter(({ from, to }) => to > from).length;
      // Below the least it goes up first, whatever the load.
      assert.ok(ups === 0 || ups === steps.length || ranks < spec.min, steps.map(({ from, to }) => `${from} -> ${to}`).join(", "));
      assert.deepEqual(
        steps.filter(({ second }) => second >= 600),
        [],
      );
    }),
    { numRuns: 60 },
  );
});

test("a load that comes and goes faster than the window takes no rank away", () => {
  const { steps } = scales(autoscaleOf(), { ranks: 2, seconds: 3_600, load: (second) => (second % 240 < 60 ? 600 : 0) });
  assert.deepEqual(
    steps.map(({ from, to }) => [from, to]),
    [[2, 6]],
  );
});

test("the same look twice is the same decision, and a look between two samples remembers nothing", () => {
  fc.assert(
    fc.property(fc.nat(1_500), fc.integer({ min: 1, max: 8 }), (load, replicas) => {
      const first = decide(look({ replicas, serving: servingRanks(replicas, load) }));
      const again = decide(look({ replicas, serving: servingRanks(replicas, load), history: first.history, now: start + askMs - 1 }));
      assert.deepEqual(again, first);
    }),
    { numRuns: 50 },
  );
});

test("an outage shorter than a minute leaves the window whole, a longer one begins it anew", () => {
  const downAfter = (outage: number): number | undefined => {
    const silent = (second: number) => second >= 100 && second < 100 + outage;
    const serving = servingRanks(3, 0).map((one) => ({ ...one, signals: undefined }));
    const { steps } = scales(autoscaleOf(), { ranks: 3, seconds: 700, load: () => 0, look: (at) => (silent(at) ? { serving } : {}) });
    return steps[0]?.second;
  };
  assert.deepEqual([downAfter(0), downAfter(50), downAfter(90)], [300, 300, 490]);
});

test("an hour of looks is remembered, and no more", () => {
  let history: History = [];
  for (let at = 0; at < 10_000_000; at += 1_000) history = remembered(history, { at, ranks: 1 }, 3_600_000);
  assert.equal(history.length, 721);
});
