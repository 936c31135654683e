// Sampling: greedy ties, the counter-based generator, and the shape of what temperature, top-k and top-p let through.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Sampling } from "./request.ts";
import { argmax, sample, uniform } from "./sampling.ts";

const base: Sampling = { temperature: 1, topP: 1, topK: 0, seed: 42n };
const logits = Float32Array.of(1, 3, 2, 3, -1, 0.5);

const frequencies = (sampling: Sampling, draws: number, from = logits): number[] => {
  const counts = new Array<number>(from.length).fill(0);
  for (let position = 0; position < draws; position++) {
    const { token } = sample(from, sampling, position);
    counts[token] = counts[token]! + 1;
  }
  return counts.map((count) => count / draws);
};

test("greedy takes the largest logit, ties the lowest id", () => {
  assert.equal(argmax(logits), 1);
  assert.equal(sample(logits, { ...base, temperature: 0 }, 5).token, 1);
  assert.equal(argmax(new Float32Array(4).fill(Number.NaN)), 0);
});

test("a draw depends on seed and position alone", () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), fc.nat(100_000), (seed, position) => {
      const u = uniform(seed, position);
      assert.ok(u >= 0 && u < 1);
      assert.equal(uniform(seed, position), u);
      assert.notEqual(uniform(seed, position + 1), u);
      assert.notEqual(uniform(seed ^ 1n, position), u);
    }),
  );
});

test("uniform numbers of one seed fill [0, 1) evenly and neighbours do not correlate", () => {
  const draws = Array.from({ length: 20_000 }, (_, i) => uniform(7n, i));
  const bins = new Array<number>(20).fill(0);
  for (const u of draws) bins[Math.floor(u * 20)]! += 1;
  for (const bin of bins) assert.ok(Math.abs(bin - 1000) < 150, `${bin}`);
  const mean = draws.reduce((a, b) => a + b, 0) / draws.length;
  const covariance = draws.slice(1).reduce((sum, u, i) => sum + (u - mean) * (draws[i]! - mean), 0) / draws.length;
  assert.ok(Math.abs(covariance) < 0.002, `${covariance}`);
});

test("temperature 1 draws the softmax", () => {
  const p = Array.from(logits, (logit) => Math.exp(logit));
  const total = p.reduce((a, b) => a + b, 0);
  for (const [id, frequency] of frequencies(base, 20_000).entries()) assert.ok(Math.abs(frequency - p[id]! / total) < 0.02, `${id}`);
});

test("top-k lets the k heaviest through, ties the lowest id first", () => {
  const seen = frequencies({ ...base, topK: 2 }, 2000);
  assert.deepEqual(
    seen.map((f) => f > 0),
    [false, true, false, true, false, false],
  );
  assert.deepEqual(frequencies({ ...base, topK: 1 }, 50), [0, 1, 0, 0, 0, 0]);
});

test("top-p lets the smallest set through whose mass reaches p", () => {
  // Masses: ids 1 and 3 about 0.37 each, id 2 about 0.14, the rest about 0.12.
  assert.deepEqual(
    frequencies({ ...base, topP: 0.3 }, 200).map((f) => f > 0),
    [false, true, false, false, false, false],
  );
  assert.deepEqual(
    frequencies({ ...base, topP: 0.7 }, 500).map((f) => f > 0),
    [false, true, false, true, false, false],
  );
  assert.deepEqual(
    frequencies({ ...base, topP: 0.8 }, 1000).map((f) => f > 0),
    [false, true, true, true, false, false],
  );
});

test("top-p with its quick filter draws what a full sort draws", () => {
  fc.assert(
    fc.property(
      fc.array(fc.float({ min: -10, max: 10, noNaN: true }), { minLength: 2, maxLength: 60 }),
      fc.double({ min: 0.05, max: 0.99, noNaN: true }),
      fc.nat(1000),
      (values, topP, position) => {
        const row = Float32Array.from(values);
        const max = Math.max(...row);
        const all = Array.from(row, (logit, id) => ({ id, weight: Math.exp(logit - max) })).sort(
          (a, b) => b.weight - a.weight || a.id - b.id,
        );
        const total = Float64Array.from(row, (logit) => Math.exp(logit - max)).reduce((a, b) => a + b, 0);
        const kept: typeof all = [];
        let mass = 0;
        for (const candidate of all) {
          if (kept.length > 0 && mass >= topP * total) break;
          kept.push(candidate);
          mass += candidate.weight;
        }
        const token = sample(row, { ...base, topP }, position).token;
        assert.ok(kept.some(({ id }) => id === token));
        let sum = 0;
        const target = uniform(base.seed, position) * kept.reduce((a, { weight }) => a + weight, 0);
        const want = kept.find(({ weight }) => {
          sum += weight;
          return sum > target;
        });
        assert.equal(token, want?.id ?? kept.at(-1)!.id);
      },
    ),
  );
});

test("log-probabilities are those of the untempered softmax, and cost nothing when not asked for", () => {
  const total = Array.from(logits, (logit) => Math.exp(logit)).reduce((a, b) => a + b, 0);
  const { token, logprob } = sample(logits, { ...base, temperature: 0.5, logprobs: true }, 3);
  assert.ok(Math.abs(logprob - Math.log(Math.exp(logits[token]!) / total)) < 1e-9);
  assert.equal(sample(logits, base, 3).logprob, 0);
});
