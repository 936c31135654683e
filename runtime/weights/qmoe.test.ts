// The ternary code: lossless, as small as its paper says on weights as sparse as the paper's, no gain on dense ones, and safe to read.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { createBackend } from "../compute/index.ts";
import { halfAt } from "../kernels/ggml/half-floats.ts";
import { gaussian, uniform } from "../kernels/random.ts";
import { asF32, type GgmlWeight } from "../kernels/weights.ts";
import { codecFor } from "./codecs/index.ts";
import { encodeTernary, qmoe, qmoeDictionary } from "./qmoe.ts";
import { storedWeight } from "./stored.ts";

/** What codewords stand for, by their dictionary alone. */
function valuesOf(codes: Iterable<number>): number[] {
  const values: number[] = [];
  for (const code of codes) {
    const word = qmoeDictionary().decoded[code]!;
    const own = new Array<number>(2 * (word & 15)).fill(0);
    for (let i = 0, rest = word >> 6; i < ((word >> 4) & 3); i++, rest >>= 6) own[(rest >> 1) & 31] = rest & 1 ? -1 : 1;
    values.push(...own);
  }
  return values;
}

const asSymbols = (values: ArrayLike<number>): Uint8Array => Uint8Array.from(values, (value) => (value < 0 ? 2 : value));

function coded(values: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(values.length);
  return out.subarray(0, encodeTernary(asSymbols(values), out));
}

const count = 1_000_000;
function drawn(zeros: number, seed: number): number[] {
  const next = uniform(seed);
  return Array.from({ length: count }, () => {
    const at = next();
    return at < zeros ? 0 : at < (1 + zeros) / 2 ? 1 : -1;
  });
}

test("any values come back, and too short an output is told", () => {
  const values = fc.array(fc.constantFrom(0, 0, 0, 0, 0, 0, 1, -1), { maxLength: 600 }).map((each) => each.slice(each.length % 2));
  fc.assert(
    fc.property(values, (each) => {
      const codes = coded(each);
      assert.deepEqual(valuesOf(codes), each);
      if (codes.length > 0) assert.equal(encodeTernary(asSymbols(each), new Uint16Array(codes.length - 1)), -1);
    }),
  );
});

/** Shares of zeros, and how many times smaller than bf16 the code is. The paper has 88.5% and 21.1 with its rows' scales. */
const ratios = { 0.8: 14.3, 0.85: 18.3, 0.885: 21.7, 0.9: 23.2, 0.95: 27.1 } as const;
for (const [zeros, want] of Object.entries(ratios))
  test(`a million ternary values of which ${100 * Number(zeros)}% are zeros come back, from a ${want}th of bf16's bytes`, () => {
    const values = drawn(Number(zeros), 7);
    const codes = coded(values);
    assert.deepEqual(valuesOf(codes), values);
    assert.ok(Math.abs(count / codes.length / want - 1) < 0.01, `${count / codes.length}`);
  });

test("dense random ternary values gain nothing: the code takes more than log2(3) bits of each", () => {
  const bits = (16 * coded(drawn(1 / 3, 9)).length) / count;
  assert.ok(bits > 2 * Math.log2(3), `${bits}`);
});

const [rows, columns] = [96, 512];
const w = gaussian(5, rows * columns, 0.02);
const unit = qmoe.encode(w);
const back = asF32(storedWeight("qmoe", [rows, columns], unit));

test("rounded weights are ternary by block, fit their bytes, and are rounded again to the same bytes", () => {
  assert.equal((8 * unit.length) / w.length, 0.8125);
  for (let from = 0; from < back.length; from += 256) {
    const block = back.subarray(from, from + 256);
    const sizes = new Set(block.map(Math.abs).filter((size) => size > 0));
    assert.equal(sizes.size, 1);
    const zeros = block.filter((value) => value === 0).length / 256;
    assert.ok(zeros > 0.86 && zeros < 0.94, `${zeros}`);
  }
  assert.deepEqual(qmoe.encode(back), unit);
  const [error, size] = [w.reduce((sum, value, i) => sum + (value - back[i]!) ** 2, 0), w.reduce((sum, value) => sum + value ** 2, 0)];
  assert.ok(Math.sqrt(error / size) < 0.75, `${Math.sqrt(error / size)} is lost`);
  assert.deepEqual(asF32(storedWeight("qmoe", [1, 256], qmoe.encode(new Float32Array(256)))), new Float32Array(256));
});

test("columns that matter are rounded better than without their importance", () => {
  const importance = Float32Array.from({ length: columns }, (_, column) => (column % 8 === 0 ? 100 : 1));
  const errorOf = (blocks: Uint8Array): number =>
    asF32(storedWeight("qmoe", [rows, columns], blocks)).reduce(
      (sum, value, at) => sum + importance[at % columns]! * (value - w[at]!) ** 2,
      0,
    );
  assert.ok(errorOf(qmoe.encode(w, importance)) < 0.9 * errorOf(unit));
  assert.throws(() => qmoe.encode(w.map((value, i) => (i === 300 ? Number.NaN : value))), { code: "UnusableWeight" });
});

/** Straight from the codewords, without a matrix. */
function product(x: Float32Array): Float32Array {
  return Float32Array.from({ length: rows }, (_, row) => {
    let y = 0;
    for (let block = 0; block < columns / 256; block++) {
      const at = ((row * columns) / 256 + block) * qmoe.bytes;
      const codes = Array.from({ length: 12 }, (_, i) => unit[at + 2 * i]! | (unit[at + 2 * i + 1]! << 8));
      const sum = valuesOf(codes).reduce((total, value, i) => (i < 256 ? total + value * x[256 * block + i]! : total), 0);
      y += halfAt(unit, at + 24) * sum;
    }
    return y;
  });
}

test("a product by the code alone is that of the expanded matrix, on the processor too", async () => {
  const x = gaussian(8, columns, 1);
  const want = product(x);
  const shape = [{ name: "w", shape: [rows, columns], form: "qmoe" as const }];
  const source = codecFor("source");
  const stored = source.encode({ w: storedWeight("qmoe", [rows, columns], unit) as GgmlWeight }, shape);
  assert.deepEqual(stored.subarray(0, unit.length), unit);
  assert.deepEqual(source.forms(shape), { w: "tq1_0" });
  const segment = {
    name: "product",
    inputs: [{ name: "x", dtype: "f32" as const, width: columns }],
    outputs: [{ name: "y", dtype: "f32" as const, width: rows }],
    weights: [{ name: "w", shape: [rows, columns] }],
    ops: [{ op: "matMul" as const, x: "x", weight: "w", out: "y" }],
  };
  const norm = Math.sqrt(want.reduce((sum, value) => sum + value ** 2, 0));
  for (const [name, most] of [
    ["reference", 1e-6],
    ["cpu", 0.02],
  ] as const) {
    const backend = await createBackend(name, { threads: 1 });
    const compiled = await backend.compile(segment, source.decode(stored, shape), 0);
    const { data } = (await compiled.run({ x: { shape: [1, columns], data: x } })).y!;
    const off = Math.sqrt(want.reduce((sum, value, i) => sum + (value - data[i]!) ** 2, 0)) / norm;
    assert.ok(off < most, `${name} is off by ${off}`);
    await compiled.dispose();
    await backend.close();
  }
});

test("codes that no rounding makes are refused, and no bytes read past a block", () => {
  const wrong = (change: (bytes: Uint8Array) => void): Uint8Array => {
    const bytes = unit.slice(0, 2 * qmoe.bytes);
    change(bytes);
    return bytes;
  };
  for (const bytes of [
    wrong((block) => block.fill(0, 0, 24)), // too few values
    wrong((block) => block.copyWithin(22, 0, 2)), // too many
    wrong((block) => block.fill(0xff, 0, 24)),
    wrong((block) => block.set([0, 0x7c], 24)), // an infinite scale
  ])
    assert.throws(() => qmoe.expand(bytes), { code: "CorruptShard" });
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 26, maxLength: 52 }), (bytes) => {
      try {
        assert.equal(qmoe.expand(bytes).length, 54 * Math.floor(bytes.length / 26));
      } catch (error) {
        assert.equal((error as { code: string }).code, "CorruptShard");
      }
    }),
  );
});

test("the same weights have the same bytes in every release", () => {
  assert.equal(createHash("sha256").update(unit).digest("hex"), "5f06402d6c0b64fd02a33a523b24beb9939470b2c6bbe1f6b679c3b23f18a530");
});
