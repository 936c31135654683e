// Every op's backward against central finite differences of its forward, on small cases of its own grid's kind.
import assert from "node:assert/strict";
import { test } from "node:test";
import { allCases, kernelOf, opNames } from "./index.ts";
import { floats, type KvRows } from "./kernel.ts";
import { gaussian, randomIds, randomTensor } from "./random.ts";
import { plainRope } from "./rope.ts";
import type { Op, Tensor } from "./segment.ts";

interface Case {
  readonly op: Op;
  readonly values: Record<string, Tensor>;
  readonly kv?: () => KvRows;
}

const attention = (window: number): Op => ({
  op: "attention",
  q: "q",
  k: "k",
  v: "v",
  layer: 0,
  heads: 4,
  kvHeads: 2,
  headDim: 4,
  valueDim: 4,
  rope: plainRope(4, 100),
  scale: 0.5,
  window,
  out: "out",
});
const qkv = (rows: number) => ({ q: randomTensor(1, [rows, 16]), k: randomTensor(2, [rows, 8]), v: randomTensor(3, [rows, 8]) });
const twoSequences = (): KvRows => ({
  keys: new Float32Array(2 * 2 * 3 * 4),
  values: new Float32Array(2 * 2 * 3 * 4),
  context: 3,
  groups: [{ firstSlot: 0, batch: 2, tokens: 3, past: new Int32Array(2) }],
});
const route = (normalize: boolean): Op => ({ op: "route", logits: "l", topK: 2, normalize, ids: "ids", gates: "gates" });
const softRoute: Op = { op: "softRoute", logits: "l", schedule: "s", experts: 6, ids: "ids", gates: "gates" };
const scheduled = (...values: readonly number[]): Tensor => ({ shape: [3], data: Float32Array.from(values) });
const groupRoute = (sigmoid: boolean, normalize: boolean): Op => ({
  op: "groupRoute",
  logits: "l",
  sigmoid,
  topK: 2,
  groups: 3,
  groupsKept: 2,
  groupTop: 1,
  normalize,
  scale: 2.5,
  ids: "ids",
  gates: "gates",
});

const ownCases: Record<string, Case> = {
  gather: { op: { op: "gather", ids: "ids", table: "t", out: "out" }, values: { ids: randomIds(4, 6, 4), t: randomTensor(5, [4, 3]) } },
  rmsNorm: {
    op: { op: "rmsNorm", x: "x", weight: "w", eps: 1e-3, out: "out" },
    values: { x: randomTensor(6, [3, 5]), w: randomTensor(7, [5]) },
  },
  "rmsNorm of heads": {
    op: { op: "rmsNorm", x: "x", weight: "w", eps: 1e-3, heads: 2, out: "out" },
    values: { x: randomTensor(6, [3, 8]), w: randomTensor(7, [4]) },
  },
  matMul: { op: { op: "matMul", x: "x", weight: "w", out: "out" }, values: { x: randomTensor(8, [3, 5]), w: randomTensor(9, [4, 5]) } },
  "add of a value to itself": { op: { op: "add", a: "a", b: "a", out: "out" }, values: { a: randomTensor(12, [2, 3]) } },
  clampedSwiglu: {
    op: { op: "clampedSwiglu", a: "a", b: "b", alpha: 1.702, limit: 1.5, out: "out" },
    values: { a: randomTensor(19, [3, 5], 2), b: randomTensor(20, [3, 5], 2) },
  },
  "attention with sinks": { op: { ...attention(2), sinks: "s" } as Op, values: { ...qkv(5), s: randomTensor(24, [4]) } },
  "attention, values narrower than keys, a part turned in pairs": {
    op: { ...attention(0), valueDim: 2, rope: { frequencies: [0.7], factor: 1.25, from: 2, interleaved: true } } as Op,
    values: { ...qkv(5), v: randomTensor(25, [5, 4]) },
  },
  "attention, causal": { op: attention(0), values: qkv(5) },
  "attention, window of 2": { op: attention(2), values: qkv(5) },
  "attention, two sequences": { op: attention(0), values: qkv(6), kv: twoSequences },
  "route, normalised": { op: route(true), values: { l: randomTensor(15, [4, 6], 2) } },
  "route, not normalised": { op: route(false), values: { l: randomTensor(16, [4, 6], 2) } },
  "softRoute, of all experts": { op: softRoute, values: { l: randomTensor(15, [4, 6], 2), s: scheduled(1.7, 0, 6) } },
  "softRoute, of those above a threshold": { op: softRoute, values: { l: randomTensor(15, [4, 6], 2), s: scheduled(1.7, 0.11, 6) } },
  "softRoute, of the best": { op: softRoute, values: { l: randomTensor(16, [4, 6], 2), s: scheduled(0.6, 0, 2) } },
  candidates: {
    op: { op: "candidates", logits: "l", sharpness: "s", count: 3, ids: "ids", values: "values", shares: "shares" },
    values: { l: randomTensor(28, [4, 6], 2), s: { shape: [4, 1], data: Float32Array.of(1, 0.5, 2, 1.5) } },
  },
  "freeExperts, two constants, a copy, one that gives nothing": {
    op: {
      ...{ op: "freeExperts", x: "x", f: "f", ids: "ids", gates: "g", from: 2, copies: 1, zeros: 1, out: "out" },
      mix: "m",
      constants: "v",
    } as Op,
    values: {
      ...{ x: randomTensor(31, [4, 5]), f: randomTensor(32, [4, 3]), g: randomTensor(33, [4, 2]) },
      ...{ ids: { shape: [4, 2], data: Int32Array.of(0, 4, 3, 2, 5, 1, 4, 3) }, m: randomTensor(34, [4, 4]), v: randomTensor(35, [3, 2]) },
    },
  },
  "groupRoute, softmax": { op: groupRoute(false, false), values: { l: randomTensor(26, [4, 6], 2) } },
  "groupRoute, softmax, normalised": { op: groupRoute(false, true), values: { l: randomTensor(26, [4, 6], 2) } },
  "groupRoute, sigmoid with a bias": {
    op: { ...groupRoute(true, true), bias: "b" } as Op,
    values: { l: randomTensor(26, [4, 6], 2), b: randomTensor(27, [6]) },
  },
};

/** Ops without a case above are tried on their kernels' own cases of few values. */
const valuesMost = 1_500;
const covered = new Set<string>(Object.entries(ownCases).flatMap(([name, { op }]) => (name.includes("to itself") ? [] : [op.op])));
const kernelCases = allCases()
  .filter(({ op }) => !covered.has(op))
  .map(({ op, case: { name, segment, inputs, weights } }) => ({
    name: `${op} of ${name}`,
    op: segment.ops[0]!,
    values: { ...inputs, ...weights },
  }))
  .filter(({ values }) => Object.values(values).reduce((sum, { data }) => sum + data.length, 0) <= valuesMost);
const cases: Record<string, Case> = {
  ...ownCases,
  ...Object.fromEntries(kernelCases.map(({ name, op, values }) => [name, { op, values }])),
};

test("every op has a case whose gradient is compared", () => {
  const tried = new Set<string>(Object.values(cases).map(({ op }) => op.op));
  assert.deepEqual(
    opNames.filter((name) => !tried.has(name)),
    [],
  );
});

/** sum over written f32 values of value * direction: a scalar whose gradient backward gives. */
function loss({ op, kv }: Case, values: Record<string, Tensor>, directions: Record<string, Float32Array>): number {
  const written = kernelOf(op).forward(op, { read: (name) => values[name]!, ...(kv ? { kv: kv() } : {}) });
  let sum = 0;
  for (const [name, direction] of Object.entries(directions)) {
    for (const [i, value] of floats(written[name]!).entries()) sum += value * direction[i]!;
  }
  return sum;
}

for (const [name, kernelCase] of Object.entries(cases)) {
  test(`backward of ${name} equals finite differences of forward`, () => {
    const { op, values, kv } = kernelCase;
    const kernel = kernelOf(op);
    const context = { read: (value: string) => values[value]!, ...(kv ? { kv: kv() } : {}) };
    const written = kernel.forward(op, context);
    const directions: Record<string, Float32Array> = {};
    for (const [out, tensor] of Object.entries(written)) {
      if (tensor.data instanceof Float32Array) directions[out] = gaussian(99, tensor.data.length);
    }
    const gradients = kernel.backward(op, context, directions);
    const step = 1 / 256;
    for (const [input, tensor] of Object.entries(values)) {
      if (!(tensor.data instanceof Float32Array)) continue;
      const gradient = gradients[input];
      assert.ok(gradient, `gradient of ${input}`);
      const scale = gradient.reduce((a, b) => Math.max(a, Math.abs(b)), 0.1);
      for (let i = 0; i < tensor.data.length; i++) {
        const at = (delta: number): number => {
          const moved = (tensor.data as Float32Array).slice();
          moved[i] = moved[i]! + delta;
          return loss(kernelCase, { ...values, [input]: { shape: tensor.shape, data: moved } }, directions);
        };
        const want = (at(step) - at(-step)) / (2 * step);
        assert.ok(Math.abs(gradient[i]! - want) <= 1e-3 * scale, `d${input}[${i}]: backward ${gradient[i]}, differences ${want}`);
      }
    }
  });
}

for (const [name, { op, values }] of Object.entries(cases).filter(([, each]) => kernelOf(each.op).gateLogits !== undefined)) {
  test(`shares of ${name} sum to 1, and their gradient equals finite differences`, () => {
    const row = floats(values.l!).slice(0, 6);
    const sharesAt = (i: number, delta: number) => kernelOf(op).shares!(op, row.with(i, row[i]! + delta));
    const direction = Float64Array.from(gaussian(98, 6));
    const along = (shares: Float64Array): number => shares.reduce((sum, share, i) => sum + share * direction[i]!, 0);
    const { values: shares, gradient } = sharesAt(0, 0);
    assert.ok(Math.abs(shares.reduce((a, b) => a + b, 0) - 1) <= 1e-12);
    const step = 1 / 256;
    for (const [i, found] of gradient(direction).entries()) {
      const want = (along(sharesAt(i, step).values) - along(sharesAt(i, -step).values)) / (2 * step);
      assert.ok(Math.abs(found - want) <= 1e-4, `logit ${i}: gradient ${found}, differences ${want}`);
    }
  });
}

test("every op has a gradient case", async () => {
  const { opNames } = await import("./index.ts");
  const covered = new Set(Object.values(cases).map((kernelCase) => kernelCase.op.op));
  assert.deepEqual(
    opNames.filter((op) => !covered.has(op)),
    [],
  );
});

test("attention refuses a gradient on top of cached tokens, and of several groups", () => {
  const op = attention(0);
  const values: Record<string, Tensor> = qkv(6);
  const whole = { firstSlot: 0, batch: 1, tokens: 3, past: Int32Array.of(0) };
  for (const later of [
    { firstSlot: 0, batch: 2, past: Int32Array.of(0, 1) },
    { firstSlot: 1, past: Int32Array.of(0) },
  ]) {
    const groups = later.firstSlot === 0 ? [{ ...whole, ...later }] : [whole, { ...whole, ...later }];
    const kv = { ...twoSequences(), groups };
    assert.throws(() => kernelOf(op).backward(op, { read: (name) => values[name]!, kv }, { out: new Float32Array(96) }), {
      code: "InvalidArgument",
    });
  }
});
