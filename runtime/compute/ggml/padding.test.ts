// Devices that pad rows of blocks: experts that come leave those beside them whole, and keys and values have room for the padding.
import assert from "node:assert/strict";
import { test } from "node:test";
import { narrowExpert, narrowWeights } from "../../../test/contract/expert-slabs.ts";
import { buildWithoutTiles } from "../../../test/kit/models/cpu-build.ts";
import { paddingDevice } from "../../../test/kit/models/padding-device.ts";
import { randomTensor } from "../../kernels/random.ts";
import { CpuDevice, type GgmlDevice } from "./device.ts";
import { Experts } from "./gpu-experts.ts";
import { createGgmlKv } from "./kv.ts";

const count = 8;

async function answers(device: GgmlDevice): Promise<Float32Array[]> {
  const expertSlab = new Experts(device).expertSlab(narrowExpert, count);
  const here = Array.from({ length: count }, (_, i) => expertSlab.place((3 * i) % count, narrowWeights(i)));
  await here[2]!.dispose();
  here[2] = expertSlab.place((3 * 2) % count, narrowWeights(2));
  const x = { x: randomTensor(7, [2, narrowExpert.inputs[0]!.width]) };
  const got: Float32Array[] = [];
  for (const expert of here) got.push((await expert.run(x)).y!.data.slice() as Float32Array);
  device.close();
  return got;
}

test("experts in a slab that grows stay whole where a new tensor's padding is set to zero", async () => {
  const [padded, plain] = [
    await answers(paddingDevice()),
    await answers(new CpuDevice({ threads: 1, pages: false, build: buildWithoutTiles })),
  ];
  assert.ok(plain.every((each) => each.some((value) => value !== 0)));
  assert.deepEqual(padded, plain);
});

test("keys and values in blocks have room for the padding behind them", async () => {
  const device = paddingDevice();
  for (const kvHeads of [1, 2, 3])
    await createGgmlKv(device, { layers: 2, slots: 1, kvHeads, context: 64, headDim: 256, valueDim: 128, type: "q8_0" }).dispose();
  device.close();
});
