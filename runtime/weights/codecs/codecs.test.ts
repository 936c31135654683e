// Codecs of expert units: what is stored means what was given, within the stated bound, for any weights.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../../crds/common.ts";
import { codecNames } from "../../../crds/names.ts";
import { halfToFloat } from "../../kernels/ggml/half-floats.ts";
import { ggmlFormats, isGgmlForm } from "../../kernels/ggml/index.ts";
import { asF32, valuesIn } from "../../kernels/weights.ts";
import { uniform } from "../../modelstore/upcycle/noise.ts";
import { f16Bits } from "../floats.ts";
import { checkUnitLength, coarseLoss, gatedFfnUnit, type UnitShape } from "./codec.ts";
import { codecFor } from "./index.ts";

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

const inF32 = (shape: UnitShape): UnitShape => shape.map((part) => ({ ...part, form: "f32" }));
for (const [what, shape] of [
  ["the three matrices of a gated FFN", inF32(gatedFfnUnit(64, 96))],
  ["two matrices with biases", inF32(biased)],
] as const)
  for (const codec of codecNames.map(codecFor)) {
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
          assert.equal(weight.form, codec.forms(shape)[name]);
          if (wanted.length === 1) assert.equal(weight.form, "f32", "a bias stays f32");
          if (weight.form === "f32") assert.deepEqual(weight.data, matrices[name]);
          else assert.equal(valuesIn(weight), wanted[0]! * wanted[1]!);
        }
      }
    });
  }

test("a unit of the wrong length is a corrupt shard", () => {
  assert.throws(
    () => checkUnitLength(codecFor("iq4_nl"), new Uint8Array(5), shape),
    (error: unknown) => error instanceof AppError && error.code === "CorruptShard",
  );
});

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "../../../test/golden/ggml-blocks.json"), "utf8"));
const bytes = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
const ggmlCodecs = codecNames.flatMap((name) => (isGgmlForm(name) ? [name] : []));

test("rows are rounded to ggml's types as ggml rounds them, bit for bit", () => {
  const rows = new Float32Array(bytes(golden.rows).buffer);
  for (const [name, blocks] of Object.entries<string>(golden.rounded)) {
    const codec = ggmlCodecs.find((codec) => codec === name);
    assert.ok(codec, name);
    const unit = codecFor(codec).encode({ w: rows }, [{ name: "w", shape: [4, 64] }]);
    assert.deepEqual(unit.subarray(0, bytes(blocks).length), bytes(blocks), name);
  }
});

/** Lost by bell-shaped weights, as a share of their size, at most: the table of codecs in runtime/docs/models.md. */
const lost = { f16: 0.0003, bf16: 0.0018, q8_0: 0.0055, q4_0: 0.0825, iq4_nl: 0.0765, mxfp4: 0.118 } as const;
test("bell-shaped weights lose no more in a ggml type than is said, and iq4_nl less than q4_0", () => {
  const bell = (i: number) => [...Array(12).keys()].reduce((sum, key) => sum + uniform(key, i) - 0.5, 0);
  const w = Float32Array.from({ length: 64_000 }, (_, i) => 0.02 * bell(i));
  for (const name of ggmlCodecs) {
    const shape = [{ name: "w", shape: [1000, 64] }];
    const back = asF32(codecFor(name).decode(codecFor(name).encode({ w }, shape), shape).w!);
    const [error, size] = back.reduce(([e, s], value, i) => [e! + (value - w[i]!) ** 2, s! + w[i]! ** 2], [0, 0]) as [number, number];
    assert.ok(Math.sqrt(error / size) < lost[name], `${name}: ${Math.sqrt(error / size)}`);
  }
});

const value = fc.oneof(fc.float({ min: -4, max: 4, noNaN: true }), fc.constantFrom(0, -0, 1e-30, -1e-30, 6e-8, -3e-8, 6e4, -6e4));

for (const [codec, part, steps] of [
  ["iq4_nl", 6, 127],
  ["q4_0", 4, 8],
] as const) {
  test(`${codec} gives any block back within a ${part}th of its largest value, or a step of the least f16`, () => {
    const shape = [{ name: "w", shape: [1, 32] }];
    fc.assert(
      fc.property(fc.array(value, { minLength: 32, maxLength: 32 }), (values) => {
        const w = Float32Array.from(values);
        const back = asF32(codecFor(codec).decode(codecFor(codec).encode({ w }, shape), shape).w!);
        const bound = Math.max(...w.map(Math.abs)) / part + steps * 2 ** -24;
        for (const [i, each] of w.entries()) assert.ok(Math.abs(each - back[i]!) <= bound, `${each} became ${back[i]}`);
      }),
      { numRuns: 500 },
    );
  });
}

test("blocks that are of a codec's type already are kept bit for bit; those of another type become it", () => {
  for (const name of ggmlCodecs) {
    const shape = [{ name: "w", shape: [2, 64] }];
    const decoded = codecFor(name).decode(
      codecFor(name).encode({ w: Float32Array.from({ length: 128 }, (_, i) => Math.sin(i)) }, shape),
      shape,
    );
    const data = Uint8Array.from((decoded.w as { data: Uint8Array }).data, (byte, i) =>
      i % ggmlFormats[name].bytes === 7 ? byte ^ 5 : byte,
    );
    const given = { form: name, shape: [2, 64], data };
    assert.deepEqual(codecFor(name).encode({ w: given }, shape).subarray(0, data.length), data, name);
    const other = codecFor("f32").encode({ w: given }, shape);
    assert.deepEqual(new Float32Array(other.buffer), asF32(given));
  }
});

test("codec source keeps each matrix in the type in which it comes, and refuses values that come in none", () => {
  const sizes = { q4_K: 256, q6_K: 256, mxfp4: 32, f16: 1 } as const;
  const forms = Object.keys(sizes) as (keyof typeof sizes)[];
  const shape = forms.map((form, i) => ({ name: form, shape: [i + 1, 256], form }));
  const given = Object.fromEntries(
    shape.map(({ name, shape: [rows = 0], form }) => {
      const bytes = rows * (256 / ggmlFormats[form].values) * ggmlFormats[form].bytes;
      return [name, { form, shape: [rows, 256], data: Uint8Array.from({ length: bytes }, (_, i) => (i * 37) % 251) }];
    }),
  );
  const source = codecFor("source");
  assert.deepEqual(source.forms(shape), Object.fromEntries(forms.map((form) => [form, form])));
  assert.deepEqual(source.decode(source.encode(given, shape), shape), given);
  const refused = (want: RegExp) => (error: unknown) => error instanceof AppError && want.test(error.message);
  assert.throws(() => source.encode({ w: new Float32Array(64) }, [{ name: "w", shape: [2, 32] }]), refused(/matrix w comes in no form/));
  assert.throws(
    () => source.encode({ w: new Float32Array(64) }, [{ name: "w", shape: [2, 32], form: "q8_0" }]),
    refused(/matrix w is not q8_0 in every expert/),
  );
});

test("values and rows that a ggml type cannot hold are refused with the remedy", () => {
  const refused = (code: string, message: RegExp) => ({ name: AppError.name, code, message });
  const w = new Float32Array(128);
  w[70] = 7e4;
  assert.throws(
    () => codecFor("f16").encode({ w }, [{ name: "w", shape: [2, 64] }]),
    refused("UnusableWeight", /70000 at \[1, 6\].*--codec bf16/),
  );
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    w[70] = value;
    for (const name of ggmlCodecs)
      assert.throws(
        () => codecFor(name).encode({ w }, [{ name: "w", shape: [2, 64] }]),
        refused("UnusableWeight", new RegExp(`${value} at \\[1, 6\\]`)),
        name,
      );
  }
  const narrow = [{ name: "w", shape: [2, 40] }];
  assert.throws(
    () => codecFor("iq4_nl").encode({ w: new Float32Array(80) }, narrow),
    refused("UnsupportedShape", /multiple of 32.*--codec f32/),
  );
});

test("halves are rounded as the platform rounds them, at every exponent and at ties", () => {
  const view = new DataView(new ArrayBuffer(4)) as DataView & { setFloat16(at: number, value: number, little: boolean): void };
  for (let i = 0; i < 60_000; i++) {
    const value = Math.fround((uniform(1, i) - 0.5) * 2 ** (Math.floor(uniform(2, i) * 44) - 26));
    for (const v of [value, Math.fround(halfToFloat(i) + halfToFloat(i + 1)) / 2]) {
      if (Number.isNaN(v)) continue;
      view.setFloat16(0, v, true);
      assert.equal(f16Bits(v), view.getUint16(0, true), String(v));
    }
  }
});

test("codecs stand in one order by what their rounding loses, and those of four bits are coarse", () => {
  const ordered = codecNames.toSorted((a, b) => codecFor(a).loss - codecFor(b).loss || (a < b ? -1 : 1));
  assert.deepEqual(ordered, ["f32", "source", "bf16", "f16", "q8_0", "iq4_nl", "mxfp4", "q4_0"]);
  assert.deepEqual(
    ordered.filter((name) => codecFor(name).loss >= coarseLoss),
    ["iq4_nl", "mxfp4", "q4_0"],
  );
});
