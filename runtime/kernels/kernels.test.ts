// Facts about single ops that no comparison between backends would show: the oracle against hand-made values.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { kernelOf } from "./index.ts";
import { floats, ints, type KvRows } from "./kernel.ts";
import { randomTensor } from "./random.ts";
import { plainRope } from "./rope.ts";
import { topK } from "./route.ts";
import type { Op, Tensor } from "./segment.ts";

const run = (op: Op, values: Record<string, Tensor>, kv?: KvRows) =>
  kernelOf(op).forward(op, { read: (name) => values[name]!, ...(kv ? { kv } : {}) });
const row = (...data: number[]): Tensor => ({ shape: [1, data.length], data: Float32Array.from(data) });

test("rmsNorm of a row has unit mean square before the weight", () => {
  const out = run(
    { op: "rmsNorm", x: "x", weight: "w", eps: 0, out: "y" },
    { x: row(3, 4), w: { shape: [2], data: Float32Array.of(1, 10) } },
  );
  const rms = Math.sqrt(12.5);
  assert.deepEqual([...floats(out.y!)], [Math.fround(3 / rms), Math.fround(40 / rms)]);
});

test("matMul multiplies by the transposed weight", () => {
  const weight = { shape: [3, 2], data: Float32Array.of(1, 2, 3, 4, 5, 6) };
  assert.deepEqual([...floats(run({ op: "matMul", x: "x", weight: "w", out: "y" }, { x: row(10, 1), w: weight }).y!)], [12, 34, 56]);
});

test("gather refuses an id outside the table and says which", () => {
  const table = randomTensor(1, [4, 2]);
  for (const id of [-1, 4]) {
    const ids = { shape: [2], data: Int32Array.of(0, id) };
    assert.throws(
      () => run({ op: "gather", ids: "i", table: "t", out: "y" }, { i: ids, t: table }),
      /ids\[1\] is -?\d+: it must be 0\.\.3/,
    );
  }
});

test("route orders by gate, gives ties to the lowest expert id, and normalised gates sum to one", () => {
  const op: Op = { op: "route", logits: "l", topK: 3, normalize: true, ids: "ids", gates: "g" };
  const out = run(op, { l: row(1, 2, 2, 0, 1) });
  assert.deepEqual([...ints(out.ids!)], [1, 2, 0]);
  fc.assert(
    fc.property(fc.array(fc.float({ min: -30, max: 30, noNaN: true }), { minLength: 3, maxLength: 40 }), (logits) => {
      const routed = run(op, { l: row(...logits) });
      const gates = [...floats(routed.g!)];
      assert.ok(Math.abs(gates.reduce((a, b) => a + b, 0) - 1) < 1e-6);
      const ids = [...ints(routed.ids!)];
      const f32 = Float32Array.from(logits);
      for (let k = 1; k < ids.length; k++) {
        const [a, b] = [f32[ids[k - 1]!]!, f32[ids[k]!]!];
        assert.ok(a > b || (a === b && ids[k - 1]! < ids[k]!));
      }
    }),
  );
});

test("softRoute gives a token the experts whose share counts, the first one always, and what is left of its places to none", () => {
  const op: Op = { op: "softRoute", logits: "l", schedule: "s", experts: 4, ids: "ids", gates: "g" };
  const at = (...schedule: number[]) => run(op, { l: row(0, 3, 3, 1), s: { shape: [3], data: Float32Array.from(schedule) } });
  const idsAt = (...schedule: number[]): number[] => [...ints(at(...schedule).ids!)];
  assert.deepEqual(idsAt(1, 0, 4), [1, 2, 3, 0]);
  assert.deepEqual(idsAt(1, 0.05, 4), [1, 2, 3, 4]);
  assert.deepEqual(idsAt(1, 0.2, 4), [1, 2, 4, 4]);
  assert.deepEqual(idsAt(100, 0.2, 4), [1, 2, 3, 0], "a higher temperature makes shares alike");
  assert.deepEqual(idsAt(1, 0.9, 4), [1, 4, 4, 4]);
  assert.deepEqual(idsAt(1, 0, 1), [1, 4, 4, 4]);
  assert.deepEqual([...floats(at(1, 0.2, 4).g!)], [0.5, 0.5, 0, 0]);
});

test("topK puts NaN last and never throws", () => {
  assert.deepEqual(topK(Float32Array.of(Number.NaN, 1, Number.NEGATIVE_INFINITY), 2), [1, 0]);
});

const attention: Op = {
  op: "attention",
  q: "q",
  k: "k",
  v: "v",
  layer: 0,
  heads: 2,
  kvHeads: 1,
  headDim: 4,
  valueDim: 4,
  rope: plainRope(4, 10),
  scale: 0.5,
  window: 0,
  out: "o",
};
const cache = (slots: number, context: number): Omit<KvRows, "groups"> => ({
  keys: new Float32Array(slots * context * 4),
  values: new Float32Array(slots * context * 4),
  context,
});
const chunk = (firstSlot: number, past: number, tokens: number) => [{ firstSlot, batch: 1, tokens, past: Int32Array.of(past) }];
const rows = (tensor: Tensor, from: number, to: number): Tensor => {
  const width = tensor.shape[1]!;
  return { shape: [to - from, width], data: (tensor.data as Float32Array).slice(from * width, to * width) };
};

test("attention of the first token returns its value for every head of the group", () => {
  const out = run(attention, { q: randomTensor(1, [1, 8]), k: randomTensor(2, [1, 4]), v: row(1, 2, 3, 4) });
  assert.deepEqual([...floats(out.o!)], [1, 2, 3, 4, 1, 2, 3, 4]);
});

test("a sink takes its part of the softmax and gives no value", () => {
  const values = { q: row(0, 0, 0, 0, 0, 0, 0, 0), k: row(0, 0, 0, 0), v: row(1, 2, 3, 4) };
  const sinks: Tensor = { shape: [2], data: Float32Array.of(0, Math.log(3)) };
  const out = floats(run({ ...attention, sinks: "s" } as Op, { ...values, s: sinks }).o!);
  for (const [i, want] of [0.5, 1, 1.5, 2, 0.25, 0.5, 0.75, 1].entries()) assert.ok(Math.abs(out[i]! - want) < 1e-6, `${out}`);
});

test("groupRoute leaves out good experts of groups that do not stay, and the bias counts for the choice alone", () => {
  const op: Op = {
    ...{ op: "groupRoute", logits: "l", bias: "b", sigmoid: true, topK: 2, groups: 3, groupsKept: 1, groupTop: 2 },
    ...{ normalize: true, scale: 2, ids: "ids", gates: "g" },
  };
  const bias: Tensor = { shape: [6], data: Float32Array.of(0, 0, 0, 0, 1, 0) };
  const out = run(op, { l: row(9, -9, 2, 2, 1, 3), b: bias });
  const [low, high] = [1 / (1 + Math.exp(-1)), 1 / (1 + Math.exp(-3))];
  assert.deepEqual([...ints(out.ids!)], [4, 5], "the last group has the best two, though the first has the best one");
  for (const [k, score] of [low, high].entries()) assert.ok(Math.abs(floats(out.g!)[k]! - (2 * score) / (low + high)) < 1e-6);
});

test("attention depends on relative positions only: equal scores wherever the pair stands", () => {
  const q = randomTensor(1, [1, 8]);
  const pair = { k: randomTensor(2, [2, 4]), v: randomTensor(3, [2, 4]) };
  const at = (past: number): number[] => {
    const kv = cache(1, 64);
    const groups = chunk(0, past, 1);
    run({ ...attention, window: 2 } as Op, { q, k: rows(pair.k, 0, 1), v: rows(pair.v, 0, 1) }, { ...kv, groups });
    const out = run(
      { ...attention, window: 2 } as Op,
      { q, k: rows(pair.k, 1, 2), v: rows(pair.v, 1, 2) },
      { ...kv, groups: chunk(0, past + 1, 1) },
    );
    return [...floats(out.o!)];
  };
  const near = at(1);
  for (const [i, value] of at(50).entries()) assert.ok(Math.abs(value - near[i]!) < 1e-5);
});

test("chunks and single steps give the bits of one prefill", () => {
  const values = { q: randomTensor(1, [9, 8]), k: randomTensor(2, [9, 4]), v: randomTensor(3, [9, 4]) };
  const whole = floats(run(attention, values).o!);
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 0, max: 2 }), (cut, slot) => {
      const kv = cache(3, 12);
      const pieces = [
        [0, cut],
        [cut, 9],
      ] as const;
      const parts = pieces.map(([from, to]) => {
        const inputs = { q: rows(values.q, from, to), k: rows(values.k, from, to), v: rows(values.v, from, to) };
        return [...floats(run(attention, inputs, { ...kv, groups: chunk(slot, from, to - from) }).o!)];
      });
      assert.deepEqual(parts.flat(), [...whole]);
    }),
  );
});
