// The vector of a row: its direction under the norm's weight, its length 1, and no vector from what is no number.
import assert from "node:assert/strict";
import { test } from "node:test";
import { embeddingOf } from "./steps.ts";

test("a row is weighed and brought to length 1, whatever its size", () => {
  const weight = Float32Array.of(1, 2, 0.5);
  const small = embeddingOf(Float32Array.of(3, 2, 0), weight);
  assert.deepEqual(small, Float32Array.of(0.6, 0.8, 0));
  assert.deepEqual(embeddingOf(Float32Array.of(3e20, 2e20, 0), weight), small);
});

test("no vector is made of NaN, infinity or nothing", () => {
  const weight = new Float32Array(2).fill(1);
  for (const row of [Float32Array.of(1, Number.NaN), Float32Array.of(Number.POSITIVE_INFINITY, 1), new Float32Array(2)])
    assert.throws(() => embeddingOf(row, weight), { code: "UnusableLogits" });
});
