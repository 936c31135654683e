// Tokens chosen by candidates are those of the whole row, or are left to it: for many rows, requests and changes of logits.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Held, Languages } from "../../../constraints/languages.ts";
import { candidates as kernel } from "../../../kernels/candidates.ts";
import type { Tensor } from "../../../kernels/segment.ts";
import type { Sampling } from "../request.ts";
import { type Candidates, candidatesMost, chooseAmong, sharpnessOf } from "./head-candidates.ts";
import { OpenSampling } from "./open-sampling.ts";
import { Sampler } from "./sampler.ts";

const sampler = new Sampler();
const base: Sampling = { temperature: 1, topP: 1, topK: 0, seed: 42n };

/** As a device gives them, whose sums are a little off. */
function candidatesOf(row: Float32Array, sampling: Sampling, { count = candidatesMost, off = 0 } = {}): Candidates {
  const most = Math.min(count, row.length);
  const op = { op: "candidates", logits: "l", sharpness: "s", count: most, ids: "i", values: "v", shares: "p" } as const;
  const read = (name: string): Tensor =>
    name === "l" ? { shape: [1, row.length], data: row } : { shape: [1, 1], data: Float32Array.of(sharpnessOf(sampling)) };
  const { i, v, p } = kernel.forward(op, { read });
  const [share = 0, sharpShare = 0] = (p!.data as Float32Array).map((value) => value * (1 + off));
  return { ids: i!.data, values: v!.data as Float32Array, share, sharpShare, vocab: row.length };
}

/** Every second token may follow, or those that are a multiple of a number. */
const heldTo = (every: number, vocab: number): Held =>
  ({
    allows: (token: number) => token % every === 0,
    candidates: (into: Uint32Array) => {
      let count = 0;
      for (let id = 0; id < vocab; id += every) into[count++] = id;
      return count;
    },
    accept: () => {},
  }) as unknown as Held;

function open(sampling: Sampling, vocab: number, { prompt = [], replay = [], every }: Before): OpenSampling {
  const languages = { vocab, hold: () => heldTo(every ?? 1, vocab) } as unknown as Languages;
  const asked = every === undefined ? sampling : { ...sampling, constraint: { name: "json_object", spec: "" } as const };
  return new OpenSampling({ sampling: asked, prompt: Uint32Array.from(prompt), replay: Uint32Array.from(replay), eos: [] }, languages);
}
interface Before {
  readonly prompt?: readonly number[];
  readonly replay?: readonly number[];
  readonly every?: number | undefined;
}

const vocab = 1_000;
const requests = fc.record({
  temperature: fc.oneof(fc.constant(0), fc.double({ min: 0.05, max: 3, noNaN: true })),
  topP: fc.oneof(fc.constant(1), fc.double({ min: 0.01, max: 1, noNaN: true })),
  topK: fc.oneof(fc.constant(0), fc.nat(300)),
  minP: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })),
  presencePenalty: fc.oneof(fc.constant(0), fc.double({ min: -2, max: 2, noNaN: true })),
  frequencyPenalty: fc.oneof(fc.constant(0), fc.double({ min: -2, max: 2, noNaN: true })),
  repetitionPenalty: fc.oneof(fc.constant(1), fc.double({ min: 0.5, max: 2, noNaN: true })),
  bias: fc.array(fc.record({ id: fc.nat(vocab - 1), value: fc.double({ min: -20, max: 20, noNaN: true }) }), { maxLength: 3 }),
  logprobs: fc.boolean(),
  topLogprobs: fc.nat(20),
  seed: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
});

test("a token chosen by candidates is that of the whole row, whatever a request asks", () => {
  let chosen = 0;
  fc.assert(
    fc.property(
      ...[requests, fc.nat(1e6), fc.constantFrom(0.3, 2, 6), fc.constantFrom(0, 1, 4), fc.constantFrom(8, 40, 256)],
      fc.array(fc.nat(vocab - 1), { maxLength: 12 }),
      ...[fc.constantFrom(undefined, undefined, 2, 50), fc.constantFrom(200, vocab)],
      (asked, seed, spread, steps, count, tokens, every, size) => {
        const sampling = { ...asked, bias: asked.bias.map(({ id, value }) => ({ id: id % size, value })) };
        const said = tokens.map((id) => id % size);
        const random = (i: number): number => Math.sin(seed + 12.9898 * i) * 43758.5453;
        const row = Float32Array.from({ length: size }, (_, i) => {
          const value = spread * Math.tan(1.3 * (random(i) - Math.floor(random(i))));
          return steps > 0 ? Math.round(value * steps) / steps : value; // ties
        });
        const request = open(sampling, size, { prompt: said.slice(6), replay: said.slice(0, 6), every });
        const off = 5e-4 * Math.sin(seed);
        const got = chooseAmong(candidatesOf(row, sampling, { count, off }), request, 7);
        if (got === undefined) return;
        chosen += 1;
        const want = sampler.sample(row, request, 7)!;
        assert.equal(got.token, want.token);
        assert.ok(Math.abs(got.logprob - want.logprob) < 1e-3);
        assert.deepEqual(got.top?.ids, want.top?.ids);
      },
    ),
    { numRuns: 1_000 },
  );
  assert.ok(chosen > 250, `${chosen} chosen`);
});

test("what requests usually ask is chosen by candidates nearly always", () => {
  const usual: Record<string, Sampling> = {
    greedy: { ...base, temperature: 0 },
    "greedy with penalties": { ...base, temperature: 0, presencePenalty: 1, repetitionPenalty: 1.1 },
    "greedy with likeliest tokens": { ...base, temperature: 0, logprobs: true, topLogprobs: 20 },
    "temperature alone": base,
    "top-p": { ...base, topP: 0.9 },
    "top-k": { ...base, topK: 40, temperature: 0.7 },
    "min-p": { ...base, minP: 0.05 },
    "top-k and top-p with penalties": { ...base, topK: 50, topP: 0.95, frequencyPenalty: 0.5 },
    "top-p with penalties": { ...base, topP: 0.9, frequencyPenalty: 0.5, presencePenalty: 0.5 },
    "temperature with penalties": { ...base, repetitionPenalty: 1.1 },
  };
  const large = 10_000;
  for (const [name, sampling] of Object.entries(usual)) {
    let chosen = 0;
    for (let i = 0; i < 10; i++) {
      // Masses that fall as those of a language model do.
      const row = Float32Array.from({ length: large }, (_, id) => -2.2 * Math.log(1 + ((id * 7919 + i * 104729) % large)) + 3);
      const likeliest = row.indexOf(Math.max(...row));
      const request = open({ ...sampling, seed: BigInt(i) }, large, { replay: [5, likeliest, 12] });
      if (chooseAmong(candidatesOf(row, sampling, { off: 1e-4 }), request, 3) !== undefined) chosen += 1;
    }
    assert.ok(chosen >= 9, `${name}: ${chosen} of 10`);
  }
});

test("candidates that are a whole vocabulary draw as its row does: past a likeliest token that is lowered, and with a k beyond all", () => {
  const size = 200;
  const cases: Record<string, Sampling> = {
    "a lowered token and top-p": { ...base, topP: 0.9, bias: [{ id: 0, value: -8 }] },
    "a lowered token": { ...base, bias: [{ id: 0, value: -8 }] },
    "a token lowered beyond numbers": { ...base, temperature: 0.05, topP: 0.9, bias: [{ id: 0, value: -100 }] },
    "a k beyond all": { ...base, topK: size, temperature: 3 },
  };
  for (const [name, sampling] of Object.entries(cases)) {
    let chosen = 0;
    for (let i = 0; i < 100; i++) {
      const row = Float32Array.from({ length: size }, (_, id) => (id === 0 ? 6 : 2 * Math.sin(7919 * id + i)));
      const request = open({ ...sampling, seed: BigInt(i) }, size, {});
      const got = chooseAmong(candidatesOf(row, sampling), request, 1);
      if (got === undefined) continue;
      chosen += 1;
      assert.equal(got.token, sampler.sample(row, request, 1)?.token, `${name}, seed ${i}`);
    }
    assert.ok(chosen >= 40, `${name}: ${chosen} of 100`);
  }
});

test("numbers that are none, and candidates that do not tell, are left to the whole row", () => {
  const row = Float32Array.from({ length: vocab }, (_, i) => -i);
  const greedy = open({ ...base, temperature: 0 }, vocab, {});
  const sound = candidatesOf(row, base);
  assert.equal(chooseAmong(sound, greedy, 0)?.token, 0);
  assert.equal(chooseAmong({ ...sound, share: Number.NaN }, greedy, 0), undefined);
  assert.equal(chooseAmong({ ...sound, values: sound.values.map((value, i) => (i === 3 ? Number.NaN : value)) }, greedy, 0), undefined);
  const flat = candidatesOf(new Float32Array(vocab), base);
  assert.equal(chooseAmong(flat, greedy, 0), undefined, "others are as large");
  const lifted = open({ ...base, temperature: 0, bias: [{ id: 900, value: 100 }] }, vocab, {});
  assert.equal(chooseAmong(candidatesOf(row, base, { count: 8 }), lifted, 0), undefined, "a token that is not among them may win");
  const lowered = open({ ...base, temperature: 0, bias: [{ id: 0, value: -100 }] }, vocab, {});
  assert.equal(chooseAmong(candidatesOf(row, base, { count: 8 }), lowered, 0)?.token, 1);
  const sharp = { ...base, temperature: 0.05, topP: 0.9, bias: [{ id: 0, value: -100 }] };
  const beyond = chooseAmong(candidatesOf(row, sharp, { count: 8 }), open(sharp, vocab, {}), 0);
  assert.equal(beyond, undefined, "the weight before is beyond all numbers");
});
