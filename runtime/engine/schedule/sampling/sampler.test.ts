// Sampling: greedy ties, the counter-based generator, the shape of what temperature, min-p, top-k and top-p let through, penalties and
// bias, the likeliest tokens; each draw beside one that sorts everything.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Languages } from "../../../constraints/languages.ts";
import type { Sampling } from "../request.ts";
import { expOf } from "./exponential.ts";
import { chooseAmong } from "./head-candidates.ts";
import { OpenSampling } from "./open-sampling.ts";
import { firstDrawn, type Sampled, Sampler, uniform } from "./sampler.ts";

const base: Sampling = { temperature: 1, topP: 1, topK: 0, seed: 42n };
const logits = Float32Array.of(1, 3, 2, 3, -1, 0.5);

const sampler = new Sampler();
const none = new Uint32Array(0);
const languages = new Languages(1_000_000, () => Promise.reject(new Error("no text is asked for")));

/** A token of a request that has said `replay` already. */
function sample(row: Float32Array, sampling: Sampling, position: number, { prompt = none, replay = none } = {}): Sampled {
  return sampler.sample(row, new OpenSampling({ sampling, prompt, replay, eos: [] }, languages), position) as Sampled;
}

const argmax = (row: Float32Array): number => row.indexOf(Math.max(...row));

const frequencies = (sampling: Sampling, draws: number, from = logits): number[] => {
  const counts = new Array<number>(from.length).fill(0);
  for (let position = 0; position < draws; position++) {
    const { token } = sample(from, sampling, position);
    counts[token] = counts[token]! + 1;
  }
  return counts.map((count) => count / draws);
};

test("greedy takes the largest logit, ties the lowest id", () => {
  assert.equal(sample(logits, { ...base, temperature: 0 }, 5).token, 1);
  const long = new Float32Array(1000).fill(-1);
  for (const id of [999, 640, 300]) {
    long[id] = 2;
    assert.equal(sample(long, { ...base, temperature: 0 }, 0).token, id);
  }
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
function plainDraw(row: Float32Array, { temperature, topP, topK, minP = 0, seed }: Sampling, position: number): number {
  const max = row[argmax(row)]!;
  const all = Array.from(row, (logit, id) => ({ id, logit, weight: expOf((logit - max) * (1 / temperature)) }));
  const mass = (some: typeof all) => some.reduce((sum, { weight }) => sum + weight, 0);
  const likely = minP > 0 ? all.filter(({ logit }) => logit >= max + temperature * Math.log(minP)) : all;
  const ranked = [...likely].sort((a, b) => b.logit - a.logit || a.id - b.id);
  const limited = topK > 0 && topK < row.length;
  const kept = limited ? ranked.slice(0, topK) : ranked;
  const goal = topP * mass(limited ? kept : likely);
  let reached = 0;
  let count = 0;
  while (count < kept.length && (count === 0 || reached < goal)) reached += kept[count++]!.weight;
  // Of all tokens the likeliest come first, then the others as they are.
  const first = new Set(ranked.slice(0, firstDrawn));
  const likeliestFirst = minP > 0 ? likely : [...first, ...likely.filter((each) => !first.has(each))];
  const chosen = topP < 1 ? kept.slice(0, count) : limited ? kept : likeliestFirst;
  const target = uniform(seed, position) * mass(chosen);
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
      fc.array(logit, { minLength: 1, maxLength: 600, size: "max" }),
      fc.constantFrom(0.01, 0.7, 1, 2),
      fc.oneof(fc.constant(1), fc.double({ min: 0.05, max: 0.99, noNaN: true })),
      fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 620 })),
      fc.constantFrom(0, 0, 0.001, 0.1, 0.9, 1),
      fc.nat(1000),
      (values, temperature, topP, topK, minP, position) => {
        const row = Float32Array.from(values);
        const sampling = { ...base, temperature, topP, topK, minP };
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

test("min-p lets those through that are likely beside the likeliest", () => {
  // Beside ids 1 and 3: id 2 has e^-1 = 0.37, id 0 e^-2 = 0.14.
  for (const [minP, want] of [
    [0.5, [1, 3]],
    [0.3, [1, 2, 3]],
    [0.1, [0, 1, 2, 3]],
  ] as const)
    assert.deepEqual(
      frequencies({ ...base, minP }, 1000).flatMap((f, id) => (f > 0 ? [id] : [])),
      want,
    );
});

test("the likeliest tokens are told by the model's own logits, whatever is drawn, and the row stays as it was", () => {
  const row = Float32Array.from({ length: 300 }, (_, id) => ((id * 37) % 300) / 20);
  const before = row.slice();
  const sampling = { ...base, logprobs: true, topLogprobs: 3, presencePenalty: 2, bias: [{ id: 5, value: 100 }] };
  const { token, logprob, top } = sample(row, sampling, 2, { replay: Uint32Array.of(8, 5) });
  assert.deepEqual(row, before);
  assert.equal(token, 5, "the bias decides");
  const logSum = Math.log(Array.from(row, (logit) => Math.exp(logit)).reduce((a, b) => a + b, 0));
  const ranked = [...row.entries()].sort(([a, x], [b, y]) => y - x || a - b).slice(0, 3);
  assert.deepEqual(
    Array.from(top!.ids),
    ranked.map(([id]) => id),
  );
  for (const [i, [, logit]] of ranked.entries()) assert.ok(Math.abs(top!.logprobs[i]! - (logit - logSum)) < 1e-9);
  assert.ok(Math.abs(logprob - (row[5]! - logSum)) < 1e-9);
  assert.equal(sample(logits, { ...base, logprobs: true }, 0).top, undefined);
  assert.equal(sample(logits, { ...base, logprobs: true, topLogprobs: 20 }, 0).top!.ids.length, logits.length);
});

test("penalties are on what prompt and output have, a bias on chosen tokens", () => {
  const greedy = { ...base, temperature: 0 };
  const row = Float32Array.of(1, 3, 2.5, -1);
  const said = { prompt: Uint32Array.of(1), replay: Uint32Array.of(2, 2) };
  const at = said.replay.length;
  const token = (sampling: Partial<Sampling>, from = row) => sample(from, { ...greedy, ...sampling }, at, said).token;
  assert.equal(token({}), 1);
  assert.equal(token({ presencePenalty: -0.6 }), 2, "2.5 + 0.6, however often it was said");
  assert.equal(token({ frequencyPenalty: -0.3 }), 2, "2.5 + 2 x 0.3");
  assert.equal(token({ frequencyPenalty: -0.2 }), 1, "2.5 + 2 x 0.2");
  assert.equal(token({ presencePenalty: 2, frequencyPenalty: 2 }), 1, "the prompt is no output");
  assert.equal(token({ repetitionPenalty: 4 }), 0, "both were there: 0.75 and 0.6");
  assert.equal(token({ repetitionPenalty: 4 }, Float32Array.of(-9, -2, -3, -7.5)), 3, "negative ones are multiplied");
  assert.equal(token({ bias: [{ id: 3, value: 4.5 }] }), 3);
  assert.equal(token({ bias: [{ id: 1, value: -100 }] }), 2);
});

test("no end comes before the least number of tokens, those of a replay counted, by whole rows and by a device's candidates", () => {
  const row = Float32Array.of(9, 8, 1, 0);
  const ids = [0, 1, 2, 3];
  const candidates = { ids, values: row, share: 0.7310585786, sharpShare: 0.7310585786, vocab: 4 };
  for (const [minTokens, replay, want] of [
    [0, 0, 0],
    [1, 0, 2],
    [2, 1, 2],
    [2, 2, 0],
  ] as const)
    for (const temperature of [0, 0.01]) {
      const asked = { ...base, temperature, minTokens };
      const made = () =>
        new OpenSampling({ sampling: asked, prompt: none, replay: new Uint32Array(replay).fill(3), eos: [0, 1] }, languages);
      assert.equal(sampler.sample(row, made(), replay)?.token, want);
      assert.equal(chooseAmong(candidates, made(), replay)?.token, want);
    }
});

test("a request that goes on after a replay says what it would have said", () => {
  const row = (position: number) => Float32Array.from({ length: 200 }, (_, id) => Math.sin(id * 7.1 + position));
  const settings = { ...base, topP: 0.9, presencePenalty: 0.5, frequencyPenalty: 0.3, repetitionPenalty: 1.2 };
  const text = (replay: readonly number[]): number[] => {
    const prompt = Uint32Array.of(4, 5, 6);
    const request = new OpenSampling({ sampling: settings, prompt, replay: Uint32Array.from(replay), eos: [] }, languages);
    const tokens = [...replay];
    for (let position = replay.length; position < 40; position++) {
      const { token } = sampler.sample(row(position), request, position)!;
      request.accept(token, position);
      tokens.push(token);
    }
    return tokens;
  };
  const whole = text([]);
  for (const cut of [1, 17, 39]) assert.deepEqual(text(whole.slice(0, cut)), whole);
  assert.notDeepEqual(whole, text([1]));
});

test("settings out of bounds are refused with their field", () => {
  const bad: readonly (readonly [Partial<Sampling>, RegExp])[] = [
    [{ temperature: Number.NaN }, /^sampling.temperature: NaN/],
    [{ topP: 1.1 }, /topP/],
    [{ minP: -1 }, /minP/],
    [{ presencePenalty: 3 }, /presencePenalty/],
    [{ repetitionPenalty: 0 }, /repetitionPenalty/],
    [{ topLogprobs: 21 }, /topLogprobs/],
    [{ bias: [{ id: 1_000_000, value: 0 }] }, /bias: token 1000000 is outside/],
    [{ bias: [{ id: 1, value: Number.POSITIVE_INFINITY }] }, /bias: Infinity for token 1/],
    [{ bias: Array.from({ length: 1025 }, (_, id) => ({ id, value: 0 })) }, /at most 1024/],
  ];
  for (const [sampling, message] of bad)
    assert.throws(() => sample(logits, { ...base, ...sampling }, 0), { code: "InvalidRequest", message }, JSON.stringify(sampling));
});

test("positions come in order, each once", () => {
  const request = new OpenSampling({ sampling: base, prompt: none, replay: Uint32Array.of(1), eos: [] }, languages);
  request.accept(3, 1);
  assert.throws(() => request.accept(3, 1), /2 comes next/);
});
