// The fast exponential beside Math.exp: near it everywhere, falling, and 0 where nothing is left.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { expOf } from "./exponential.ts";

test("it is e^x to twelve digits, 1 at 0, and never grows as x falls", () => {
  assert.equal(expOf(0), 1);
  assert.equal(expOf(-0), 1);
  assert.equal(expOf(-1e9), 0);
  assert.equal(expOf(Number.NEGATIVE_INFINITY), 0);
  assert.equal(expOf(Number.NaN), 0);
  fc.assert(
    fc.property(fc.double({ min: -700, max: 0, noNaN: true }), (x) => {
      const want = Math.exp(x);
      assert.ok(Math.abs(expOf(x) - want) <= 1e-12 * want, `${x}`);
    }),
    { numRuns: 5_000 },
  );
  for (let x = 0; x > -60; x -= 0.37) assert.ok(expOf(x - 1e-6) < expOf(x), `${x}`);
});
