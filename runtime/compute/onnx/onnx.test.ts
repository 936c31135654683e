// The rules of training against the reference kernels' own backward, and the contracts that sums and rows rest on: products add in
// place, one graph serves many layers, and a row's bits do not depend on its neighbours.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { crossEntropyBackward, differentiate } from "../../../test/kit/training/differentiate.ts";
import { crossEntropy } from "../../kernels/cross-entropy.ts";
import { allCases, type OpCase } from "../../kernels/index.ts";
import { floats, type KvRows } from "../../kernels/kernel.ts";
import { gaussian, randomIds, randomTensor } from "../../kernels/random.ts";
import { plainRope } from "../../kernels/rope.ts";
import type { Segment } from "../../kernels/segment.ts";
import { gatedExpert } from "../../models/moe.ts";
import { createTraining } from "../open-training.ts";
import { evaluate } from "../reference.ts";
import { type KeptValue, lossRows, type TrainableSegment, type WeightViews } from "../training.ts";

const training = await createTraining({ threads: 1 });
after(() => training.close());

/**
 * Bound of |a - b| / |b| of a whole tensor as a vector. Not of its elements: one that cancels has few of the digits that its terms have.
 * For the same reason b counts as no shorter than 0.1 where all of it cancels; gradients that are given have elements of about 1.
 */
const bound = 1e-6;

function distance(found: Float32Array, want: Float32Array): number {
  assert.equal(found.length, want.length);
  const length = (of: (i: number) => number): number => Math.sqrt(want.reduce((sum, _, i) => sum + of(i) ** 2, 0));
  return (
    length((i) => found[i]! - want[i]!) /
    Math.max(
      0.1,
      length((i) => want[i]!),
    )
  );
}

test("the measure tells a tensor that is off by twice the bound, by all of its elements or by one", () => {
  const want = gaussian(1, 512);
  const length = Math.sqrt(want.reduce((sum, value) => sum + value ** 2, 0));
  const all = want.map((value) => value * (1 + 2 * bound));
  const one = want.with(7, want[7]! + 2 * bound * length);
  for (const found of [all, one]) assert.ok(distance(found, want) > bound);
});

/** Training runs whole sequences of one length: pasts are empty, and there is one group. */
function rowsOf({ kv }: OpCase): KvRows | undefined {
  if (!kv) return undefined;
  const { kvHeads, context, headDim, valueDim, groups } = kv;
  const { batch, tokens } = groups[0]!;
  const keys = new Float32Array(batch * kvHeads * context * headDim);
  const values = new Float32Array(batch * kvHeads * context * valueDim);
  return { keys, values, context, groups: [{ firstSlot: 0, batch, tokens, past: new Int32Array(batch) }] };
}

/** Cases whose rows are sequences of one length. */
const trainable = allCases().filter(({ case: { kv } }) => (kv?.groups.length ?? 1) === 1);

const viewsOf = (weights: OpCase["weights"]): WeightViews =>
  Object.fromEntries(Object.entries(weights).map(([name, { data }]) => [name, data]));

const zeros = (weights: OpCase["weights"]): WeightViews =>
  Object.fromEntries(Object.entries(weights).map(([name, { data }]) => [name, new Float32Array(data.length)]));

interface Given extends Pick<OpCase, "segment" | "weights" | "inputs"> {
  readonly kv?: KvRows | undefined;
}

/** Of each value that is written and each gradient, how far it is from the reference's. */
async function errorsOf(compiled: TrainableSegment, { segment, weights, inputs, kv }: Given, seed: number) {
  const tape = evaluate(segment, { ...weights, ...inputs }, () => kv);
  const outputs: Record<string, Float32Array> = {};
  for (const { name, dtype } of segment.outputs) if (dtype === "f32") outputs[name] = gaussian(seed, floats(tape.get(name)!).length);
  const want = differentiate(segment, tape, outputs, () => kv);

  const views = viewsOf(weights);
  const written = await compiled.forward(inputs, views);
  const sums = zeros(weights);
  const found = await compiled.backward({ values: { ...inputs, ...written }, weights: views, outputs, sums });
  const kept: KeptValue[] = [];
  const again = { written: await compiled.forward(inputs, views, kept), sums: zeros(weights) };
  const values = { ...inputs, ...again.written };
  const given = { values, kept: kept, weights: views, outputs, sums: again.sums };
  assert.deepEqual([await compiled.backward(given), again], [found, { written, sums }], "with what forward keeps");
  const forward = Object.keys(outputs).map((name) => [name, distance(floats(written[name]!), floats(tape.get(name)!))] as const);
  const backward = Object.entries({ ...found, ...sums }).map(
    ([name, gradient]) => [name, distance(gradient, want[name] ?? new Float32Array(gradient.length))] as const,
  );
  return { forward, backward };
}

/** Floats in other places: other numbers of the same kind, which an op allows as it does these. */
function turned(inputs: OpCase["inputs"], by: number): OpCase["inputs"] {
  const turn = (data: Float32Array): Float32Array => data.map((_, i) => data[(i + by) % data.length]!);
  return Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, data }]) => [name, { shape, data: data instanceof Float32Array ? turn(data) : data }]),
  );
}

async function holdsBound(compiled: TrainableSegment, given: Given, seed: number): Promise<void> {
  const { forward, backward } = await errorsOf(compiled, given, seed);
  for (const [name, off] of forward) assert.ok(off <= bound, `${name} is off by ${off}`);
  for (const [name, off] of backward) assert.ok(off <= bound, `gradient of ${name} is off by ${off}`);
}

for (const { op, case: kernelCase } of trainable) {
  test(`${op}, ${kernelCase.name}: forward and backward are the reference's`, async () => {
    const { segment, weights, inputs } = kernelCase;
    const kv = rowsOf(kernelCase);
    const compiled = await training.compile(segment, kv?.groups[0]?.tokens ?? 1);
    // The one value of a single cell may cancel by itself, and has no others beside it by whose length it counts.
    const single = Object.values(inputs).some(({ data }) => data.length === 1);
    for (const by of single ? [0] : [0, 7, 1001]) await holdsBound(compiled, { segment, weights, inputs: turned(inputs, by), kv }, 77 + by);
  });
}

const attentionOf = (heads: number, kvHeads: number, headDim: number): Segment => ({
  name: "attention",
  inputs: [
    { name: "q", dtype: "f32", width: heads * headDim },
    { name: "k", dtype: "f32", width: kvHeads * headDim },
    { name: "v", dtype: "f32", width: kvHeads * headDim },
  ],
  outputs: [{ name: "out", dtype: "f32", width: heads * headDim }],
  weights: [],
  ops: [
    {
      ...{ op: "attention", q: "q", k: "k", v: "v", layer: 0, heads, kvHeads, headDim, valueDim: headDim, window: 0, out: "out" },
      ...{ rope: plainRope(headDim, 1e4), scale: 1 / Math.sqrt(headDim) },
    },
  ],
});

interface Attended {
  readonly segment: Segment;
  readonly tokens: number;
  /** Of queries and keys: how sharply they choose. */
  readonly deviation: number;
}

const attended: Record<string, Attended> = {
  "256 tokens in heads of a model": { segment: attentionOf(9, 3, 64), tokens: 256, deviation: 1 },
  "two tokens that see hardly more than one": { segment: attentionOf(2, 1, 16), tokens: 2, deviation: 2 },
};
for (const [name, { segment, tokens, deviation }] of Object.entries(attended))
  test(`attention of ${name}: forward and backward are the reference's`, async () => {
    const compiled = await training.compile(segment, tokens);
    for (const seed of [0, 100, 200]) {
      const drawn = segment.inputs.map(({ name, width }, i) => [name, randomTensor(seed + 1 + i, [tokens, width], i < 2 ? deviation : 1)]);
      await holdsBound(compiled, { segment, weights: {}, inputs: Object.fromEntries(drawn) }, 77 + seed / 100);
    }
  });

test("matMul of a model's size: forward and backward are the reference's", async () => {
  const [rows, width, out] = [128, 576, 1536];
  const segment: Segment = {
    name: "product",
    inputs: [{ name: "x", dtype: "f32", width }],
    outputs: [{ name: "y", dtype: "f32", width: out }],
    weights: [{ name: "w", shape: [out, width] }],
    ops: [{ op: "matMul", x: "x", weight: "w", out: "y" }],
  };
  const given = { segment, weights: { w: randomTensor(5, [out, width], 0.05) }, inputs: { x: randomTensor(9, [rows, width]) } };
  await holdsBound(await training.compile(segment, 1), given, 77);
});

const lossHead: Segment = {
  name: "head",
  inputs: [{ name: "x", dtype: "f32", width: 24 }],
  outputs: [{ name: "logits", dtype: "f32", width: 65 }],
  weights: [
    { name: "norm", shape: [24] },
    { name: "matrix", shape: [65, 24] },
  ],
  ops: [
    { op: "rmsNorm", x: "x", weight: "norm", eps: 1e-5, out: "normed" },
    { op: "matMul", x: "normed", weight: "matrix", out: "logits" },
  ],
};
const headWeights = { norm: randomTensor(31, [24]), matrix: randomTensor(32, [65, 24], 0.5) };

for (const rows of [1, 2, lossRows, lossRows + 1, 2 * lossRows + 7]) {
  test(`cross-entropy behind a head, ${rows} rows in chunks of ${lossRows}: losses and gradients are the reference's`, async () => {
    const x = randomTensor(33, [rows, 24]);
    const targets = randomIds(34, rows, 65).data as Int32Array;
    const tape = evaluate(lossHead, { ...headWeights, x }, () => undefined);
    const logits = { logits: floats(tape.get("logits")!), targets };
    const scale = 1 / 300;
    const dLogits = crossEntropyBackward(logits, new Float32Array(rows).fill(scale));
    const want = differentiate(lossHead, tape, { logits: dLogits }, () => undefined);

    const head = await training.compileLoss(lossHead);
    const sums = zeros(headWeights);
    const call = { x: x.data, targets, weights: viewsOf(headWeights) };
    const { losses, dx } = await head.backward({ ...call, scale, sums });
    assert.deepEqual(await head.forward(call), losses);
    assert.ok(distance(losses, crossEntropy(logits)) <= bound);
    for (const [name, gradient] of Object.entries({ x: dx, ...sums })) {
      const off = distance(
        gradient.map((value) => value / scale),
        want[name]!.map((value) => value / scale),
      );
      assert.ok(off <= bound, `gradient of ${name} is off by ${off}`);
    }
  });
}

test("a frozen weight has no gradient, and the others have the bits that they have beside one that is trained", async () => {
  const frozen = {
    ...lossHead,
    weights: lossHead.weights.map((weight) => (weight.name === "norm" ? { ...weight, frozen: true as const } : weight)),
  };
  const call = {
    x: randomTensor(33, [9, 24]).data,
    targets: randomIds(34, 9, 65).data as Int32Array,
    weights: viewsOf(headWeights),
    scale: 1,
  };
  const gradients = async (segment: Segment) => {
    const sums = zeros(headWeights);
    const { dx } = await (await training.compileLoss(segment)).backward({ ...call, sums });
    return { dx, norm: sums.norm!, matrix: sums.matrix! };
  };
  const [some, all] = [await gradients(frozen), await gradients(lossHead)];
  assert.ok(all.norm.some((value) => value !== 0));
  assert.deepEqual(some, { ...all, norm: new Float32Array(24) });
});

test("cross-entropy's gradient equals finite differences", () => {
  const logits = gaussian(41, 3 * 5);
  const rows = { logits, targets: Int32Array.of(0, 4, 2) };
  const scales = Float32Array.of(1, 0.5, 0);
  const gradient = crossEntropyBackward(rows, scales);
  const loss = (at: number, delta: number): number => {
    const moved = logits.with(at, logits[at]! + delta);
    return crossEntropy({ ...rows, logits: moved }).reduce((sum, value, row) => sum + value * scales[row]!, 0);
  };
  for (let i = 0; i < logits.length; i++) {
    const want = (loss(i, 1 / 256) - loss(i, -1 / 256)) / (2 / 256);
    assert.ok(Math.abs(gradient[i]! - want) <= 1e-4, `${gradient[i]} is not ${want}`);
  }
});

const hidden = 96;
const expert = gatedExpert(hidden, 300);
const unit = Object.fromEntries(expert.weights.map(({ name, shape }, i) => [name, randomTensor(51 + i, shape, 0.1)]));

async function expertGradients(x: Float32Array, gates: Float32Array, dOut: Float32Array, sums: WeightViews) {
  const found = await (await training.compileExpert(expert)).backward({ x, gates, dOut, weights: viewsOf(unit) });
  await found.addTo(sums, 0, gates.length);
  return found;
}

test("a gated expert: gradients of rows, gates and weights are the reference's", async () => {
  const [x, gates, dOut] = [randomTensor(61, [9, hidden]), gaussian(62, 9), gaussian(63, 9 * hidden)];
  const tape = evaluate(expert, { ...unit, x }, () => undefined);
  const y = floats(tape.get("y")!);
  const want = differentiate(expert, tape, { y: dOut.map((value, i) => value * gates[Math.floor(i / hidden)]!) }, () => undefined);
  const wantGates = gates.map((_, row) => {
    let dot = 0;
    for (let d = row * hidden; d < (row + 1) * hidden; d++) dot += y[d]! * dOut[d]!;
    return dot;
  });
  const sums = zeros(unit);
  const { dx, dGates } = await expertGradients(x.data, gates, dOut, sums);
  assert.ok(distance(dGates, wantGates) <= bound);
  for (const [name, gradient] of Object.entries({ x: dx, ...sums })) assert.ok(distance(gradient, want[name]!) <= bound, name);
});

test("a row's gradient has the same bits alone and beside others", async () => {
  const [x, gates, dOut] = [gaussian(81, 64 * hidden), gaussian(82, 64), gaussian(83, 64 * hidden)];
  const all = await expertGradients(x, gates, dOut, zeros(unit));
  for (const rows of [1, 2, 3, 17]) {
    const some = await expertGradients(x.slice(0, rows * hidden), gates.slice(0, rows), dOut.slice(0, rows * hidden), zeros(unit));
    assert.deepEqual(some.dx, all.dx.slice(0, rows * hidden), `${rows} rows`);
    assert.deepEqual(some.dGates, all.dGates.slice(0, rows), `${rows} rows`);
  }
});

test("an op without a backward is refused by its name, with what to do", async () => {
  const op = { op: "argmax", x: "x", out: "y" } as unknown as Segment["ops"][number];
  const segment: Segment = { ...lossHead, ops: [op, ...lossHead.ops] };
  await assert.rejects(training.compile(segment, 1), {
    code: "UnsupportedOp",
    message: /argmax has no backward; train a model without it/,
  });
});

test("an op of the host before one of the device is refused by segment and op", async () => {
  const { outputs, weights, ops } = lossHead;
  const table = { name: "table", shape: [65, 24] };
  const gather = { op: "gather", ids: "ids", table: "table", out: "x" } as const;
  const ids = { name: "ids", dtype: "i32", width: 0 } as const;
  const segment: Segment = { name: "odd", inputs: [ids], outputs, weights: [...weights, table], ops: [gather, ...ops] };
  await assert.rejects(training.compile(segment, 1), {
    code: "UnsupportedOp",
    message: /odd: op rmsNorm reads x, which the host computes/,
  });
});
