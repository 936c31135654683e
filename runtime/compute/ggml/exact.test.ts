// Every type of weight, in the memory that is chosen for it here: a row's bits depend neither on the rows beside it nor on threads, and
// the product is that of the weights as the kernels read them.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { stored } from "../../../test/kit/models/published-parts.ts";
import { type GgmlForm, ggmlFormats } from "../../kernels/ggml/index.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import { copyF32, type WeightData } from "../../kernels/weights.ts";
import { CpuDevice } from "./device.ts";
import { SingleExperts } from "./expert-programs.ts";
import { numberOf, weightBytes } from "./types.ts";

const [columns, outputs, rowsMax] = [512, 96, 65];
const forms = Object.keys(ggmlFormats) as GgmlForm[];
const segment: Segment = {
  name: "product",
  inputs: [{ name: "x", dtype: "f32", width: columns }],
  outputs: [{ name: "y", dtype: "f32", width: outputs }],
  weights: [{ name: "w", shape: [outputs, columns] }],
  ops: [{ op: "matMul", x: "x", weight: "w", out: "y" }],
};
const sides = [1, 2].map((threads) => {
  const device = new CpuDevice({ threads, governor: { choose: () => threads, took: () => undefined } });
  return { device, experts: new SingleExperts(device) };
});
/** A build for processors without AVX2, which have kernels of their own. */
const old = "sandybridge";
const [one] = sides as [(typeof sides)[number]];

function weight(form: GgmlForm | "f32"): WeightData {
  const f32 = randomTensor(3, [outputs, columns]).data;
  if (form === "f32") return { form, shape: [outputs, columns], data: f32 };
  // Random blocks of types that ggml rounds to only by the importance of values, or not at all.
  if (/^iq[123]|^tq|^nvfp4|^q1/.test(form)) return { form, shape: [outputs, columns], data: stored(form, outputs * columns, 3) };
  const data = new Uint8Array(weightBytes(form, [outputs, columns]));
  one.device.ggml.ggml_quantize_chunk(numberOf(form), f32, data, 0, outputs, columns, 0n);
  return { form, shape: [outputs, columns], data };
}

const x = randomTensor(4, [rowsMax, columns]).data;
const rowsOf = (first: number, count: number) => ({
  x: { shape: [count, columns], data: x.slice(first * columns, (first + count) * columns) },
});

for (const form of ["f32" as const, ...forms]) {
  test(`${form}: any rows together, on one or two threads, give the same bits`, async () => {
    const w = weight(form);
    const experts = sides.map(({ experts }) => experts.expertSlab(segment, 1).place(0, { w }));
    const whole = (await experts[0]!.run(rowsOf(0, rowsMax))).y!.data.slice();
    await fc.assert(
      fc.asyncProperty(fc.nat(rowsMax - 1), fc.integer({ min: 1, max: rowsMax }), fc.nat(1), async (first, most, side) => {
        const count = Math.min(most, rowsMax - first);
        const got = (await experts[side]!.run(rowsOf(first, count))).y!.data;
        assert.deepEqual(got, whole.slice(first * outputs, (first + count) * outputs));
      }),
      { numRuns: 25 },
    );
    const values = copyF32(w);
    let worst = 0;
    for (let i = 0; i < outputs; i++) {
      let sum = 0;
      for (let k = 0; k < columns; k++) sum += (x[k] as number) * (values[i * columns + k] as number);
      worst = Math.max(worst, Math.abs((whole[i] as number) - sum) / Math.sqrt(columns));
    }
    assert.ok(worst < 0.03, `error ${worst} for each value of a row`);
    for (const expert of experts) await expert.dispose();
  });
}

test(`a build without AVX2 gives a row alone the bits that it has among others, ${old}`, { skip: process.arch !== "x64" }, async () => {
  const experts = new SingleExperts(new CpuDevice({ threads: 1, build: old }));
  for (const form of ["q8_0", "q4_0", "q4_1", "q4_K"] as const) {
    const expert = experts.expertSlab(segment, 1).place(0, { w: weight(form) });
    const whole = (await expert.run(rowsOf(0, 8))).y!.data.slice();
    for (const row of [0, 5]) {
      const got = (await expert.run(rowsOf(row, 1))).y!.data;
      assert.deepEqual(got, whole.slice(row * outputs, (row + 1) * outputs), form);
    }
  }
});
