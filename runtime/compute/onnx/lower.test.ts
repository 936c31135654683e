// Bounds of calls held to their claim, on one thread and on several: within them rows of several lanes have the bits of a call for each,
// and gradients that are added in place those of sums apart. Sizes and rows that the bounds leave out have others, or need none.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { gaussian } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import { programOf } from "../../models/index.ts";
import { gatedExpert } from "../../models/moe.ts";
import { createTraining } from "../open-training.ts";
import type { KeptValue, TrainableExpert, TrainingBackend, WeightViews } from "../training.ts";
import { callBounds } from "./lower.ts";

const backends = new Map<number, TrainingBackend>();
for (const threads of [1, 2, 4]) backends.set(threads, await createTraining({ threads }));
after(async () => {
  for (const backend of backends.values()) await backend.close();
});

const bounds = { rowsAtOnce: 512, rowsInPlace: 128 };
const none = { rowsAtOnce: 0, rowsInPlace: 0 };
/** 512 in all. */
const lanes = [3, 1, 255, 1, 252];

/** y = x W^T + (x A^T) B^T, as experts have it beside adapters. */
const lowRank = (hidden: number, rank: number): Segment => ({
  ...gatedExpert(hidden, hidden),
  weights: [
    { name: "w", shape: [hidden, hidden], frozen: true },
    { name: "a", shape: [rank, hidden] },
    { name: "b", shape: [hidden, rank] },
  ],
  ops: [
    { op: "matMul", x: "x", weight: "w", out: "base" },
    { op: "matMul", x: "x", weight: "a", out: "low" },
    { op: "matMul", x: "low", weight: "b", out: "high" },
    { op: "add", a: "base", b: "high", out: "y" },
  ],
});

/** With biases. */
function gptOss(hidden: number, ffn: number): Segment {
  const sizes = { hidden_size: hidden, intermediate_size: ffn, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 8, head_dim: 4 };
  const counts = { num_key_value_heads: 2, num_local_experts: 2, num_experts_per_tok: 1, max_position_embeddings: 16 };
  const fields = { hidden_act: "silu", rms_norm_eps: 1e-5, layer_types: ["full_attention"], sliding_window: 8 };
  const [layer] = programOf({ ...sizes, ...counts, ...fields, architectures: ["GptOssForCausalLM"] }).layers;
  assert.ok(layer?.kind === "moe");
  return layer.expert;
}

interface Given {
  readonly x: Float32Array;
  readonly gates: Float32Array;
  readonly dOut: Float32Array;
}

interface Compiled {
  readonly expert: TrainableExpert;
  readonly hidden: number;
  readonly weights: WeightViews;
  zeros(): WeightViews;
}

async function compiled(segment: Segment, threads: number): Promise<Compiled> {
  const arrays = (fill: (floats: number, i: number) => Float32Array): WeightViews =>
    Object.fromEntries(
      segment.weights.map(({ name, shape }, i) => [
        name,
        fill(
          shape.reduce((a, b) => a * b),
          i,
        ),
      ]),
    );
  return {
    expert: await backends.get(threads)!.compileExpert(segment),
    hidden: segment.inputs[0]!.width,
    weights: arrays((floats, i) => gaussian(50 + i, floats, 0.1)),
    zeros: () => arrays((floats) => new Float32Array(floats)),
  };
}

const rowsOf = ({ hidden }: Compiled, rows: number, seed: number): Given => ({
  x: gaussian(seed, rows * hidden),
  gates: gaussian(seed + 1, rows),
  dOut: gaussian(seed + 2, rows * hidden),
});

const part = ({ x, gates, dOut }: Given, hidden: number, from: number, to: number): Given => ({
  x: x.slice(from * hidden, to * hidden),
  gates: gates.slice(from, to),
  dOut: dOut.slice(from * hidden, to * hidden),
});

/** What all lanes give in one call, and what each gives in its own. */
async function jointlyAndApart(at: Compiled, keeping: boolean) {
  const { expert, hidden, weights, zeros } = at;
  const all = rowsOf(at, 512, 91);
  const kept: KeptValue[] | undefined = keeping ? [] : undefined;
  const y = await expert.forward(all.x, weights, kept);
  const joint = await expert.backward({ ...all, weights, kept: kept?.flat() });
  const [jointly, apart]: [unknown[], unknown[]] = [[], []];
  let from = 0;
  for (const rows of lanes) {
    const [to, own] = [from + rows, part(all, hidden, from, from + rows)];
    const [joined, alone] = [zeros(), zeros()];
    await joint.addTo(joined, from, to);
    const gradients = { dOut: joint.dx, x: y, gates: joint.dGates };
    jointly.push([part(gradients, hidden, from, to), joined]);
    const found = await expert.backward({ ...own, weights });
    await found.addTo(alone, 0, rows);
    apart.push([{ x: await expert.forward(own.x, weights), gates: found.dGates, dOut: found.dx }, alone]);
    from = to;
  }
  return { jointly, apart };
}

/** Gradients of two lanes in one sum, and the sums of both apart, added. */
async function inPlaceAndApart(at: Compiled, rows: number) {
  const { expert, weights, zeros } = at;
  const add = async (seed: number, sums: WeightViews) =>
    (await expert.backward({ ...rowsOf(at, rows, seed), weights })).addTo(sums, 0, rows);
  const [both, first, second] = [zeros(), zeros(), zeros()];
  for (const [seed, own] of [
    [71, first],
    [81, second],
  ] as const) {
    await add(seed, both);
    await add(seed, own);
  }
  for (const [name, sum] of Object.entries(first)) for (const [i, value] of second[name]!.entries()) sum[i] = sum[i]! + value;
  return { both, added: first };
}

interface Case {
  readonly threads: number;
  readonly segment: Segment;
}

const steady: Readonly<Record<string, Case>> = {
  "100 x 300": { threads: 1, segment: gatedExpert(100, 300) },
  "as few columns as there may be": { threads: 1, segment: gatedExpert(4, 4) },
  "14,336 columns": { threads: 1, segment: gatedExpert(16, 14_336) },
  "with biases": { threads: 1, segment: gptOss(60, 36) },
  "of low rank": { threads: 1, segment: lowRank(100, 4) },
  "two threads": { threads: 2, segment: gatedExpert(192, 300) },
  "two threads, with biases": { threads: 2, segment: gptOss(192, 204) },
  "four threads": { threads: 4, segment: gatedExpert(384, 404) },
};

for (const [name, { threads, segment }] of Object.entries(steady)) {
  test(`${name}: rows of several lanes in one call have the bits of a call for each, with and without what forward keeps`, async () => {
    const at = await compiled(segment, threads);
    assert.equal(at.expert.rowsAtOnce, bounds.rowsAtOnce);
    for (const keeping of [false, true]) {
      const { jointly, apart } = await jointlyAndApart(at, keeping);
      assert.deepEqual(jointly, apart);
    }
  });

  test(`${name}: gradients in place have the bits of those that are summed apart`, async () => {
    const at = await compiled(segment, threads);
    assert.equal(at.expert.rowsInPlace, bounds.rowsInPlace);
    for (const rows of [1, 2, 7, 64, 127, 128]) {
      const { both, added } = await inPlaceAndApart(at, rows);
      assert.deepEqual(both, added, `${rows} rows`);
    }
  });
}

test("products of more rows are cut, and have other bits in place", async () => {
  const { both, added } = await inPlaceAndApart(await compiled(gatedExpert(100, 300), 1), 3 * bounds.rowsInPlace);
  assert.notDeepEqual(both, added);
});

const unlike: Readonly<Record<string, Case>> = {
  "rows that begin between vectors": { threads: 1, segment: gatedExpert(96, 301) },
  "two threads with 48 columns each": { threads: 2, segment: gatedExpert(96, 300) },
  "two threads with 64 columns each": { threads: 2, segment: gatedExpert(128, 300) },
  "four threads with 64 columns each": { threads: 4, segment: gatedExpert(256, 320) },
};

for (const [name, { threads, segment }] of Object.entries(unlike))
  test(`${name}: bits do depend on neighbours, and lanes are not joined`, async () => {
    const at = await compiled(segment, threads);
    assert.equal(at.expert.rowsAtOnce, none.rowsAtOnce);
    const { jointly, apart } = await jointlyAndApart(at, false);
    assert.notDeepEqual(jointly, apart);
  });

test("products of one column or row have other bits in place, and are summed apart", async () => {
  for (const segment of [gatedExpert(16, 1), lowRank(16, 1)]) {
    const at = await compiled(segment, 1);
    assert.equal(at.expert.rowsInPlace, none.rowsInPlace);
    const { both, added } = await inPlaceAndApart(at, 64);
    assert.notDeepEqual(both, added);
  }
});

test("bounds follow from the least of an expert's sizes, biases too", () => {
  assert.deepEqual(callBounds(gatedExpert(192, 192), 2), bounds);
  assert.deepEqual(callBounds(gatedExpert(192, 188), 2), none);
  assert.deepEqual(callBounds(gatedExpert(192, 192), 3), none);
  assert.deepEqual(callBounds(lowRank(192, 4), 1), bounds);
  assert.deepEqual(callBounds(lowRank(192, 4), 2), none);
  assert.deepEqual(callBounds(gatedExpert(8, 6), 1), none);
});
