// The dense part in the types that it comes in: every ggml type is looked up and multiplied by as the reference does, a row's bits do not
// depend on the rows beside it, and floats take the bytes that are asked for.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { stored } from "../../../test/kit/models/published-parts.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData } from "../../kernels/weights.ts";
import { type StoredForm, storedBytes, storedForms, storedWeight } from "../../weights/stored.ts";
import { createBackend } from "../index.ts";
import { relativeError } from "../op-self-test.ts";
import { createGgmlBackend } from "./index.ts";

const width = 256;
const product: Segment = {
  name: "product",
  inputs: [{ name: "x", dtype: "f32", width }],
  outputs: [{ name: "y", dtype: "f32", width }],
  weights: [
    { name: "w", shape: [width, width] },
    { name: "n", shape: [width] },
  ],
  ops: [
    { op: "rmsNorm", x: "x", weight: "n", eps: 1e-5, out: "a" },
    { op: "matMul", x: "a", weight: "w", out: "y" },
  ],
};
const table: Segment = {
  name: "table",
  inputs: [{ name: "ids", dtype: "i32", width: 0 }],
  outputs: [{ name: "y", dtype: "f32", width }],
  weights: [{ name: "w", shape: [width, width] }],
  ops: [{ op: "gather", ids: "ids", table: "w", out: "y" }],
};

const blocks = (form: StoredForm, seed = 1): WeightData => storedWeight(form, [width, width], stored(form, width * width, seed));
const n: WeightData = { form: "f32", ...(randomTensor(3, [width]) as { shape: number[]; data: Float32Array }) };
const reference = await createBackend("reference", { threads: 1 });
const backend = await createGgmlBackend({ threads: 1, denseBits: 16 });
after(() => backend.close());

/** Memory for tiles, on processors that have them, holds sums beside blocks. */
const assertAbout = (resident: number, stored: number): void =>
  assert.ok(resident >= stored && resident <= 1.15 * stored + 128, `${resident} bytes resident, ${stored} stored`);

/** Of a product, by how rows are rounded before a type multiplies them: to eight bits, to a half, or not. */
const errorMax = (form: StoredForm): number => (form === "f32" ? 1e-6 : form === "f16" ? 1e-3 : form === "bf16" ? 6e-3 : 0.02);

for (const form of storedForms)
  test(`${form}: looked up and multiplied by as it is, with the same bits for a row alone and among others`, async () => {
    const weights = { w: blocks(form), n };
    const [mine, theirs] = [await backend.compile(product, weights), await reference.compile(product, weights)];
    assertAbout(mine.residentBytes - 4 * width, storedBytes(form, width * width));
    const rows = randomTensor(9, [40, width]);
    const [got, want] = [(await mine.run({ x: rows })).y!.data.slice(), (await theirs.run({ x: rows })).y!.data];
    const error = relativeError(got, want);
    assert.ok(error < errorMax(form), error.toExponential(2));
    for (const row of [0, 17, 39]) {
      const x = { shape: [1, width], data: rows.data.slice(row * width, (row + 1) * width) };
      assert.deepEqual((await mine.run({ x })).y!.data, got.subarray(row * width, (row + 1) * width), `row ${row}`);
    }
    const ids = { ids: { shape: [width], data: Int32Array.from({ length: width }, (_, i) => width - 1 - i) } };
    const looked = await Promise.all([backend, reference].map((each) => each.compile(table, { w: weights.w })));
    const [found, meant] = [(await looked[0]!.run(ids)).y!.data, (await looked[1]!.run(ids)).y!.data];
    assert.ok(relativeError(found, meant) < 1e-6);
    for (const each of [mine, ...looked]) await each.dispose();
  });

test("halves become f32, stay as they are, or become int8, as is asked for; blocks stay, and so does a router's f32", async () => {
  const gate = { op: "route" as const, logits: "y", topK: 2, normalize: true, ids: "ids", gates: "gates" };
  const router: Segment = {
    ...product,
    name: "router",
    outputs: [{ name: "gates", dtype: "f32", width: 2 }],
    ops: [...product.ops, gate],
  };
  const bytes = width * width;
  const sizes = { 32: 4 * bytes, 16: 2 * bytes, 8: (34 * bytes) / 32 } as const;
  for (const bits of [32, 16, 8] as const) {
    const each = await createGgmlBackend({ threads: 1, denseBits: bits });
    const resident = async (segment: Segment, w: WeightData): Promise<number> =>
      (await each.compile(segment, { w, n })).residentBytes - 4 * width;
    assertAbout(await resident(product, blocks("bf16")), sizes[bits]);
    assertAbout(await resident(product, blocks("f16")), sizes[bits]);
    assertAbout(await resident(product, blocks("f32")), bits === 8 ? sizes[8] : sizes[32]);
    assertAbout(await resident(product, blocks("q6_K")), storedBytes("q6_K", bytes));
    assertAbout(await resident(router, blocks("bf16")), sizes[32]);
    await each.close();
  }
});

test("a router's matrices are f32 behind a bias, in a sum and behind a cell too; one that other values come from is not", async () => {
  const each = await createGgmlBackend({ threads: 1, denseBits: 8 });
  const [wide, experts] = [64, 32];
  const matMul = (x: string, weight: string, out: string) => ({ op: "matMul" as const, x, weight, out });
  const bytesOf = async (ops: Segment["ops"], shapes: Record<string, readonly number[]>): Promise<number> => {
    const route = { op: "route" as const, logits: "logits", topK: 2, normalize: true, ids: "ids", gates: "gates" };
    const weights = Object.entries(shapes).map(([name, shape]) => ({ name, shape }));
    const segment: Segment = {
      name: "router",
      inputs: [
        { name: "x", dtype: "f32", width: wide },
        { name: "before", dtype: "f32", width: wide },
      ],
      outputs: [{ name: "gates", dtype: "f32", width: 2 }],
      weights,
      ops: [...ops, route],
    };
    const zeros = weights.map(({ name, shape }) => {
      const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
      return [name, { form: "f32" as const, shape, data }];
    });
    const compiled = await each.compile(segment, Object.fromEntries(zeros));
    const { residentBytes } = compiled;
    await compiled.dispose();
    return residentBytes;
  };
  const gate = [experts, wide];
  const biased = [matMul("x", "w", "scores"), { op: "addRow" as const, x: "scores", row: "b", out: "logits" }];
  assertAbout(await bytesOf(biased, { w: gate, b: [experts] }), 4 * experts * wide);
  const summed = [matMul("x", "w", "own"), matMul("before", "v", "given"), { op: "add" as const, a: "own", b: "given", out: "logits" }];
  assertAbout(await bytesOf(summed, { w: gate, v: gate }), 2 * 4 * experts * wide);
  const cell = [
    matMul("x", "p", "seen"),
    matMul("seen", "i", "given"),
    matMul("before", "s", "held"),
    { op: "gru" as const, given: "given", held: "held", state: "before", out: "state" },
    matMul("state", "w", "logits"),
  ];
  const three = [3 * wide, wide];
  assertAbout(await bytesOf(cell, { p: [wide, wide], i: three, s: three, w: gate }), 4 * wide * (7 * wide + experts));
  const other = [matMul("x", "p", "r"), { op: "scale" as const, x: "r", by: 2, out: "f" }, matMul("f", "w", "logits")];
  assertAbout(await bytesOf(other, { p: [wide, wide], w: gate }), (34 * wide * wide) / 32 + 4 * experts * wide);
  await each.close();
});
