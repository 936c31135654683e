// Codecs of expert units: what is stored means what was given, within the stated bound, for any weights.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../../crds/common.ts";
import { asF32, blockSize } from "../../kernels/weights.ts";
import { uniform } from "../../tools/noise.ts";
import { checkUnitLength, gatedFfnUnit, type UnitShape } from "./codec.ts";
import { f32 } from "./f32.ts";
import { codecFor } from "./index.ts";
import { blockErrorBound, int4, quantizeInt4 } from "./int4.ts";

const value = fc.oneof(fc.float({ min: -4, max: 4, noNaN: true }), fc.constantFrom(0, -0, 1e-30, -1e-30, 1e-38, 3e4, -3e4));
const block = fc.array(value, { minLength: blockSize, maxLength: blockSize });

test("a block comes back within half a level of its range, in the root mean square, and is never worse for clipping", () => {
  fc.assert(
    fc.property(fc.array(block, { minLength: 1, maxLength: 6 }), (blocks) => {
      const data = Float32Array.from(blocks.flat());
      const back = asF32(quantizeInt4(data, 1, data.length));
      for (let at = 0; at < data.length; at += blockSize) {
        const part = data.subarray(at, at + blockSize);
        const plain = (Math.max(0, ...part) - Math.min(0, ...part)) / 15;
        const error = Math.sqrt(part.reduce((sum, value, i) => sum + (value - back[at + i]!) ** 2, 0) / blockSize);
        assert.ok(error <= blockErrorBound * plain + 1e-37, `error ${error}, plain scale ${plain}`);
      }
    }),
    { numRuns: 500 },
  );
});

test("bell-shaped weights lose less than 9% of their size", () => {
  const bell = (i: number) => [1, 2, 3, 4, 5, 6].reduce((sum, key) => sum + uniform(key, i) - 0.5, 0);
  const data = Float32Array.from({ length: 32_000 }, (_, i) => bell(i));
  const back = asF32(quantizeInt4(data, 1000, 32));
  const size = (values: Float32Array) => Math.hypot(...values.subarray(0, 32_000));
  assert.ok(size(back.map((value, i) => value - data[i]!)) / size(data) < 0.09);
});

test("what int4 has no level for is refused with its position, and never becomes a number", () => {
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const data = new Float32Array(3 * blockSize).fill(0.5);
    data[2 * blockSize + 9] = value;
    assert.throws(
      () => quantizeInt4(data, 3, blockSize),
      (error: unknown) => error instanceof AppError && error.code === "UnusableWeight" && error.message.includes(`${value} at [2, 9]`),
    );
  }
});

test("zero points are levels and zero stays exactly zero", () => {
  fc.assert(
    fc.property(block, fc.nat(blockSize - 1), (values, at) => {
      const data = Float32Array.from(values);
      data[at] = 0;
      const weight = quantizeInt4(data, 1, blockSize);
      assert.ok(weight.z[0]! <= 15);
      assert.equal(asF32(weight)[at], 0);
    }),
  );
});

test("the low nibble of a byte is the earlier value", () => {
  const data = Float32Array.from({ length: blockSize }, (_, i) => i % 16);
  const weight = quantizeInt4(data, 1, blockSize);
  assert.deepEqual([...weight.q.subarray(0, 3)], [0x10, 0x32, 0x54]);
  assert.deepEqual([weight.s[0], weight.z[0]], [1, 0]);
});

test("rows that are no whole number of blocks are refused with the remedy", () => {
  assert.throws(
    () => quantizeInt4(new Float32Array(40), 1, 40),
    (error: unknown) => error instanceof AppError && error.code === "UnsupportedShape" && /--codec f32/.test(error.message),
  );
});

const shape = gatedFfnUnit(64, 96);
/** Two matrices of unlike sizes with their biases, neither as long as a section's padding. */
const biased: UnitShape = [
  { name: "up", shape: [40, 64] },
  { name: "up.bias", shape: [40] },
  { name: "down", shape: [64, 32] },
  { name: "down.bias", shape: [65] },
];
const matricesOf = (unit: UnitShape) =>
  Object.fromEntries(
    unit.map(({ name, shape: [rows = 1, columns = 1] }, m) => [
      name,
      Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 0.37 + m)),
    ]),
  );

for (const [what, shape] of [
  ["the three matrices of a gated FFN", gatedFfnUnit(64, 96)],
  ["two matrices with biases", biased],
] as const)
  for (const codec of [f32, int4]) {
    test(`a unit of codec ${codec.name} decodes to ${what} in their shapes, from any alignment`, () => {
      const matrices = matricesOf(shape);
      const unit = codec.encode(matrices, shape);
      assert.equal(unit.length, codec.unitBytes(shape));
      const shifted = new Uint8Array(unit.length + 1);
      shifted.set(unit, 1);
      for (const bytes of [unit, shifted.subarray(1)]) {
        const weights = codec.decode(bytes, shape);
        for (const { name, shape: wanted } of shape) {
          const weight = weights[name]!;
          assert.deepEqual(weight.shape, wanted);
          assert.equal(weight.form, wanted.length === 1 ? "f32" : codec.form, "a bias stays f32");
          if (weight.form === "f32") assert.deepEqual(weight.data, matrices[name]);
          else assert.deepEqual(weight, quantizeInt4(matrices[name]!, wanted[0]!, wanted[1]!));
        }
      }
    });
  }

test("a unit of the wrong length is a corrupt shard", () => {
  assert.throws(
    () => checkUnitLength(codecFor("int4"), new Uint8Array(5), shape),
    (error: unknown) => error instanceof AppError && error.code === "CorruptShard",
  );
});
