import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seeded } from "../random.ts";
import { Forecaster } from "./forecast.ts";
import { assumedWindows, expectedWindows, type Restlessness, windowsMax, windowsMin } from "./lifetime.ts";

const calm: Restlessness = { watched: 0, changes: 0, unrest: 0, lasting: 1 };

test("a forecast is expected to hold as long as load has held before, or until it has drifted away", () => {
  assert.equal(expectedWindows(calm), assumedWindows);
  assert.equal(expectedWindows({ ...calm, watched: 40 }), 60);
  assert.equal(expectedWindows({ ...calm, watched: 40, changes: 3 }), 15);
  // 5% of the load moves on in each window: half of 20 windows.
  assert.equal(expectedWindows({ ...calm, unrest: 0.05 }), 10);
  assert.equal(expectedWindows({ ...calm, unrest: 0.05, lasting: 0.1 }), assumedWindows, "it only swings about its mean");
});

const restlessness = fc.record({
  watched: fc.double({ min: 0, max: 1000, noNaN: true }),
  changes: fc.double({ min: 0, max: 100, noNaN: true }),
  unrest: fc.double({ min: 0, max: 1, noNaN: true }),
  lasting: fc.double({ min: 0, max: 1, noNaN: true }),
});

test("more unrest or more changes never make it longer, more quiet windows never shorter, and it keeps to its bounds", () => {
  fc.assert(
    fc.property(restlessness, fc.double({ min: 0, max: 1, noNaN: true }), (r, more) => {
      const windows = expectedWindows(r);
      assert.ok(windows >= windowsMin && windows <= windowsMax);
      assert.ok(expectedWindows({ ...r, unrest: r.unrest + more }) <= windows);
      assert.ok(expectedWindows({ ...r, lasting: r.lasting + more }) <= windows);
      assert.ok(expectedWindows({ ...r, changes: r.changes + more }) <= windows);
      assert.ok(expectedWindows({ ...r, watched: r.watched + 10 * more }) >= windows);
    }),
    { numRuns: 2000, seed: 1 },
  );
});

/** Lifetime after 40 windows of one layer; `hotIn(t)`: which half of the experts is hot in window t. */
function lifetimeOf(hotIn: (t: number) => number): number {
  const random = seeded(2);
  const forecaster = new Forecaster(1, 32);
  let lifetime = 0;
  for (let t = 0; t < 40; t++) {
    const counts = Float64Array.from({ length: 32 }, (_, e) => 1000 + 4000 * Number(e % 2 === hotIn(t)) + 40 * random.next());
    ({ lifetime } = forecaster.observe(counts));
  }
  return lifetime;
}

test("a load that holds still is counted on for longer than one that turns over now and then, and that for longer than one that always does", () => {
  const still = lifetimeOf(() => 0);
  const sometimes = lifetimeOf((t) => Math.floor(t / 10) % 2);
  const always = lifetimeOf((t) => Math.floor(t / 3) % 2);
  assert.ok(still > 40, `${still}`);
  assert.ok(sometimes < 20 && sometimes >= windowsMin, `${sometimes}`);
  assert.ok(always < sometimes, `${always} against ${sometimes}`);
});
