// Devices that pad rows of blocks: experts that come leave those beside them whole, and keys and values have room for the padding.
import assert from "node:assert/strict";
import { test } from "node:test";
import { paddingDevice } from "../../../test/support/padding-device.ts";
import { stored } from "../../../test/support/published-parts.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import { storedWeight } from "../../weights/stored.ts";
import { CpuDevice, type GgmlDevice } from "./device.ts";
import { Experts } from "./experts.ts";
import { createGgmlKv } from "./kv.ts";

const [rows, columns, count] = [32, 96, 8];
const segment: Segment = {
  name: "expert",
  inputs: [{ name: "x", dtype: "f32", width: columns }],
  outputs: [{ name: "y", dtype: "f32", width: rows }],
  weights: [{ name: "w", shape: [rows, columns] }],
  ops: [{ op: "matMul", x: "x", weight: "w", out: "y" }],
};
const weights = (seed: number) => ({ w: storedWeight("q8_0", [rows, columns], stored("q8_0", rows * columns, seed)) });

async function answers(device: GgmlDevice): Promise<Float32Array[]> {
  const shelf = new Experts(device).shelf(segment, count);
  const here = Array.from({ length: count }, (_, i) => shelf.place((3 * i) % count, weights(i)));
  await here[2]!.dispose();
  here[2] = shelf.place((3 * 2) % count, weights(2));
  const x = { x: randomTensor(7, [2, columns]) };
  const got: Float32Array[] = [];
  for (const expert of here) got.push((await expert.run(x)).y!.data.slice() as Float32Array);
  device.close();
  return got;
}

test("experts in a slab that grows stay whole where a new tensor's padding is set to zero", async () => {
  const [padded, plain] = [await answers(paddingDevice()), await answers(new CpuDevice({ threads: 1, pages: false }))];
  assert.ok(plain.every((each) => each.some((value) => value !== 0)));
  assert.deepEqual(padded, plain);
});

test("keys and values in blocks have room for the padding behind them", async () => {
  const device = paddingDevice();
  for (const kvHeads of [1, 2, 3])
    await createGgmlKv(device, { layers: 2, slots: 1, kvHeads, context: 64, headDim: 256, valueDim: 128, type: "q8_0" }).dispose();
  device.close();
});
