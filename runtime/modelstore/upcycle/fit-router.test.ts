// Router fitting and noise: what decisions about the upcycled model rest on, as properties of the pure parts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { roundToBf16 } from "../../weights/floats.ts";
import { fitRouter } from "./fit-router.ts";
import { keyOf, rootMeanSquare, uniform, withNoise } from "./noise.ts";

const hidden = 32;
const experts = 4;
const options = { experts, topK: 2, topProbability: 0.6, seed: 1 };

/** Tokens of `experts` topics around a mean that all share and that is larger than what tells them apart. */
function states(tokens: number): Float32Array {
  const out = new Float32Array(tokens * hidden);
  for (let token = 0; token < tokens; token++) {
    for (let i = 0; i < hidden; i++) {
      const topic = i % experts === token % experts ? 2 : 0;
      out[token * hidden + i] = 5 + topic + (uniform(keyOf(9, token), i) - 0.5) * 1.5;
    }
  }
  return out;
}

test("every topic gets its own expert although all states share a large mean", () => {
  const data = states(800);
  const router = fitRouter(data, hidden, 0, options);
  const first = (token: number) => {
    const logits = Array.from({ length: experts }, (_, e) =>
      data.subarray(token * hidden, (token + 1) * hidden).reduce((sum, value, i) => sum + value * router.rows[e * hidden + i]!, 0),
    );
    return logits.indexOf(Math.max(...logits));
  };
  const owners = new Set(Array.from({ length: experts }, (_, topic) => first(topic)));
  assert.equal(owners.size, experts);
  for (let token = 0; token < 80; token++) assert.equal(first(token), first(token % experts));
});

test("the mean of the largest probability is what was asked, and loads add up to top-k per token", () => {
  const router = fitRouter(states(800), hidden, 0, options);
  assert.ok(Math.abs(router.topProbability - 0.6) < 0.01, String(router.topProbability));
  assert.equal(
    router.loads.reduce((sum, load) => sum + load, 0),
    1600,
  );
});

test("router rows are orthogonal to the mean state and hold as bf16", () => {
  const data = states(800);
  const router = fitRouter(data, hidden, 0, options);
  assert.deepEqual(roundToBf16(router.rows), router.rows);
  const mean = Array.from({ length: hidden }, (_, i) => {
    let sum = 0;
    for (let at = i; at < data.length; at += hidden) sum += data[at]!;
    return sum / 800;
  });
  const size = Math.hypot(...mean);
  for (let e = 0; e < experts; e++) {
    const row = [...router.rows.subarray(e * hidden, (e + 1) * hidden)];
    const cosine = row.reduce((sum, value, i) => sum + value * mean[i]!, 0) / (size * Math.hypot(...row));
    assert.ok(Math.abs(cosine) < 0.01, String(cosine));
  }
});

test("the same seed gives the same router, another seed or layer may not, and too few tokens are refused", () => {
  const data = states(400);
  assert.deepEqual(fitRouter(data, hidden, 3, options), fitRouter(data, hidden, 3, options));
  assert.throws(
    () => fitRouter(data.subarray(0, hidden * 8), hidden, 0, options),
    (error: unknown) => error instanceof AppError && error.code === "TooFewTokens",
  );
});

test("states that are all alike still give a router of finite numbers", () => {
  const router = fitRouter(new Float32Array(hidden * 100).fill(1), hidden, 0, options);
  assert.ok(router.rows.every(Number.isFinite));
});

test("noise has the wanted size, depends on its key alone, and never repeats between experts", () => {
  const weights = Float32Array.from({ length: 20_000 }, (_, i) => Math.sin(i));
  const difference = (key: number) => withNoise(weights, 0.02, key).map((value, i) => value - weights[i]!);
  const noise = difference(keyOf(1, 0, 0, 1));
  const relative = rootMeanSquare(noise) / rootMeanSquare(weights);
  assert.ok(Math.abs(relative - 0.02) < 0.0004, String(relative));
  const other = difference(keyOf(1, 0, 1, 1));
  const product = noise.reduce((sum, value, i) => sum + value * other[i]!, 0) / noise.length;
  assert.ok(Math.abs(product) < 0.05 * rootMeanSquare(noise) ** 2);
  assert.deepEqual(difference(keyOf(1, 0, 0, 1)), noise);
  assert.deepEqual(withNoise(weights, 0, 5), weights);
});

test("the generator's bits are fixed for all time: stores made by one release verify in the next", () => {
  assert.deepEqual(
    [keyOf(1, 2, 3), keyOf(0), keyOf(1, 0, 0, 1)].map((key) => key.toString(16)),
    pinned.keys,
  );
  assert.deepEqual([...withNoise(Float32Array.of(1, -1, 0.5), 0.1, 42)], pinned.noise);
});
const pinned = { keys: ["57e35ae1", "f62a5422", "ede98ede"], noise: [1.0906578302383423, -1.1400413513183594, 0.6244224309921265] };
