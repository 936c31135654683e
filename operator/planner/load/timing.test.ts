import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { modelShape, planInput, rankSpec } from "../../../test/kit/planner/plan-input.ts";
import { movesAllowed, movesDefault, Pace, phaseLoads } from "./timing.ts";

const still = { alarm: false, change: 0.01, noiseFloor: 0.01 };
const restless = { alarm: false, change: 0.05, noiseFloor: 0.01 };
const jump = { alarm: true, change: 0.5, noiseFloor: 0.01 };
const nothing = { reason: "NoBetterPlan" } as const;

function after(windows: number, seen: Parameters<Pace["observe"]>[0], pace = new Pace()): Pace {
  for (let n = 0; n < windows; n++) pace.observe(seen);
  return pace;
}

test("a change of load counts as fresh until a plan was judged, or for four windows", () => {
  const pace = after(1, jump);
  assert.ok(pace.changed);
  pace.judged(nothing);
  assert.equal(pace.changed, false, "a plan answers it");
  assert.ok(after(3, still, after(1, jump)).changed, "the window with too few tokens for a plan does not lose it");
  assert.equal(after(4, still, after(1, jump)).changed, false);
});

test("a load that holds still while plans find nothing better is planned for at twice, then four times the interval", () => {
  const pace = after(8, still);
  const factors = Array.from({ length: 4 }, () => {
    const factor = pace.intervalFactor;
    pace.judged(nothing);
    return factor;
  });
  assert.deepEqual(factors, [1, 2, 4, 4]);
  pace.judged({ reason: "Imbalanced" });
  assert.equal(pace.intervalFactor, 1, "a plan that was carried out may be one of several");
});

test("the interval is the usual one while the load moves, right after it did, and when ranks come or go", () => {
  const slow = (): Pace => {
    const pace = after(8, still);
    pace.judged(nothing);
    return pace;
  };
  assert.equal(slow().intervalFactor, 2);
  assert.equal(after(1, restless, slow()).intervalFactor, 1);
  assert.equal(after(1, jump, slow()).intervalFactor, 1);
  assert.equal(after(20, still, after(1, restless, slow())).intervalFactor, 1, "what was found before is forgotten");
  const pace = slow();
  pace.forget();
  assert.equal(pace.intervalFactor, 1);
  const young = after(7, still);
  young.judged(nothing);
  assert.equal(young.intervalFactor, 1, "eight windows tell that it holds still");
});

test("a plan after a change may move twice the default, and never more than somebody has set", () => {
  assert.deepEqual([movesAllowed(undefined, false), movesAllowed(undefined, true)], [movesDefault, 2 * movesDefault]);
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), fc.boolean(), (given, changed) => {
      assert.equal(movesAllowed(given, changed), given);
    }),
    { seed: 3 },
  );
});

test("whatever happens, the interval is between one and four times the usual", () => {
  const event = fc.oneof(
    fc.constantFrom(still, restless, jump),
    fc.constantFrom("NoBetterPlan", "TransferNotWorth", "Imbalanced", "WithinNoise"),
  );
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const pace = new Pace();
      for (const each of events) {
        if (typeof each === "string") pace.judged({ reason: each });
        else pace.observe(each);
        assert.ok([1, 2, 4].includes(pace.intervalFactor));
      }
    }),
    { numRuns: 300, seed: 4 },
  );
});

const input = planInput(modelShape(2, 2), [rankSpec(0), rankSpec(1)], {
  ...{ load: new Float64Array(4), effort: "fast" },
  current: [0, 1].map(() => ({ hosts: [[0], [1]], weights: [[1000], [1000]] })),
});
const window = (prefill: number[], decode: number[]) => ({
  routedByPhase: { prefill: Float64Array.from(prefill), decode: Float64Array.from(decode) },
});

test("each phase is measured by itself: what is even in sum may be uneven in both", () => {
  const found = phaseLoads(input, window([900, 100, 500, 500], [100, 900, 500, 500]), 100);
  assert.deepEqual(found, [
    { phase: "prefill", selections: 2000, worst: 1.8, mean: 1.4 },
    { phase: "decode", selections: 2000, worst: 1.8, mean: 1.4 },
  ]);
});

test("layers with few selections say nothing, nor does a phase without any", () => {
  const found = phaseLoads(input, window([3, 0, 500, 500], [0, 0, 0, 0]), 100);
  assert.deepEqual(found, [{ phase: "prefill", selections: 1003, worst: 1, mean: 1 }]);
});
