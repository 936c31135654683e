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

test("NaN and infinite logits give no token but an error that names the first of them", () => {
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
    for (const temperature of [0, 1])
      assert.throws(() => sample(Float32Array.of(1, 2, value, 9, Number.NaN), { ...base, temperature }, 7), {
        code: "UnusableLogits",
        message: new RegExp(`^logit 2 of output token 7 is ${value}: `),
      });
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

/** The same draw said plainly: sort everything, then cut. */
function plainDraw(row: Float32Array, { temperature, topP, topK, seed }: Sampling, position: number): number {
  const best = argmax(row);
  const weights = Float64Array.from(row, (logit) => Math.exp((logit - row[best]!) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  const floor = topP < 1 && topK === 0 ? ((1 - topP) * total) / weights.length : 0;
  const all = Array.from(weights, (weight, id) => ({ id, weight }));
  const limited = topK > 0 || topP < 1;
  const heaviest = all.filter(({ id, weight }) => weight > floor || id === best).sort((a, b) => b.weight - a.weight || a.id - b.id);
  const kept = topK > 0 ? heaviest.slice(0, topK) : heaviest;
  const mass = topK > 0 ? kept.reduce((sum, { weight }) => sum + weight, 0) : total;
  let reached = 0;
  let count = 0;
  while (count < kept.length && (count === 0 || reached < topP * mass)) reached += kept[count++]!.weight;
  const chosen = limited ? kept.slice(0, count) : all;
  const target = uniform(seed, position) * chosen.reduce((sum, { weight }) => sum + weight, 0);
  let sum = 0;
  const drawn = chosen.find(({ weight }) => {
    sum += weight;
    return sum > target;
  });
  return (drawn ?? chosen.findLast(({ weight }) => weight > 0) ?? chosen[0]!).id;
}

test("any draw is that of a full sort, bit for bit", () => {
  // Few different values make ties; the lowest of f32 and small temperatures make weights of 0.
  const logit = fc.oneof(
    fc.float({ min: -10, max: 10, noNaN: true }),
    fc.integer({ min: -3, max: 3 }),
    fc.constantFrom(-3.4028234663852886e38),
  );
  fc.assert(
    fc.property(
      fc.array(logit, { minLength: 1, maxLength: 200, size: "max" }),
      fc.constantFrom(0.01, 0.7, 1, 2),
      fc.oneof(fc.constant(1), fc.double({ min: 0.05, max: 0.99, noNaN: true })),
      fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 220 })),
      fc.nat(1000),
      (values, temperature, topP, topK, position) => {
        const row = Float32Array.from(values);
        const sampling = { ...base, temperature, topP, topK };
        assert.equal(sample(row, sampling, position).token, plainDraw(row, sampling, position));
      },
    ),
    { numRuns: 2000 },
  );
});

test("log-probabilities are those of the untempered softmax, and cost nothing when not asked for", () => {
  const total = Array.from(logits, (logit) => Math.exp(logit)).reduce((a, b) => a + b, 0);
  const { token, logprob } = sample(logits, { ...base, temperature: 0.5, logprobs: true }, 3);
  assert.ok(Math.abs(logprob - Math.log(Math.exp(logits[token]!) / total)) < 1e-9);
  assert.equal(sample(logits, base, 3).logprob, 0);
});
