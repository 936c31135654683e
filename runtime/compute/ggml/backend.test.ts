// Calls that would end the process or spoil another's memory: use after the close, memory that is not to be had, slots given back twice,
// blocks that do not fit. That the numbers are right is shown by test/contract/cpu.test.ts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import { CpuDevice } from "./device.ts";
import { createGgmlBackend } from "./index.ts";

const width = 64;
const product: Segment = {
  name: "product",
  inputs: [{ name: "x", dtype: "f32", width }],
  outputs: [{ name: "y", dtype: "f32", width }],
  weights: [{ name: "w", shape: [width, width] }],
  ops: [{ op: "matMul", x: "x", weight: "w", out: "y" }],
};
const normed: Segment = {
  ...product,
  name: "normed",
  weights: [...product.weights, { name: "n", shape: [width] }],
  ops: [
    { op: "rmsNorm", x: "x", weight: "n", eps: 1e-5, out: "a" },
    { op: "matMul", x: "a", weight: "w", out: "y" },
  ],
};
const f32 = (seed: number, shape: readonly number[]) => ({ form: "f32" as const, ...(randomTensor(seed, shape) as any) });
const weights = (seed: number) => ({ w: f32(seed, [width, width]), n: f32(seed, [width]) });
const x = { x: randomTensor(9, [3, width]) };

test("after the close every call is refused, and what is given back late spoils nothing", async () => {
  const backend = await createGgmlBackend({ threads: 1 });
  const [expert, program] = [await backend.compile(product, weights(1)), await backend.compile(normed, weights(2))];
  const kv = await backend.createKv({ layers: 1, slots: 2, kvHeads: 1, context: 8, headDim: 8, valueDim: 8 });
  await Promise.all([expert.run(x), program.run(x)]);
  await backend.close();
  const stopped = { code: "EngineStopped" };
  await assert.rejects(expert.run(x), stopped);
  await assert.rejects(program.run(x), stopped);
  await assert.rejects(backend.runMany([{ program: expert, inputs: x }]), stopped);
  await assert.rejects(backend.compile(product, weights(3)), stopped);
  await assert.rejects(kv.copySlot(0, 1, 2), stopped);
  for (const late of [expert, program, kv, expert]) await late.dispose();
  await backend.close();
});

test("an expert that is disposed of twice leaves the one in its slot alone", async () => {
  const backend = await createGgmlBackend({ threads: 1 });
  const first = await backend.compile(product, weights(1));
  await first.dispose();
  const second = await backend.compile(product, weights(2));
  const want = (await second.run(x)).y!.data.slice();
  await first.dispose();
  const third = await backend.compile(product, weights(3));
  assert.deepEqual((await second.run(x)).y!.data, want);
  await assert.rejects(first.run(x), /disposed/);
  await third.dispose();
  await backend.close();
});

test("memory that is not to be had is an error, and the scratch memory is whole again afterwards", () => {
  const device = new CpuDevice({ threads: 1 });
  device.scratch(1_000);
  const generation = device.generationOf("main");
  assert.throws(() => device.scratch(2 ** 47), { code: "OutOfMemory" });
  assert.throws(() => device.allocate(2 ** 47), { code: "OutOfMemory" });
  assert.ok(device.scratch(2_000).bytes >= 2_000);
  assert.ok(device.generationOf("main") > generation);
  device.close();
});

test("rows that are no whole number of blocks are refused by name", async () => {
  const backend = await createGgmlBackend({ threads: 1 });
  const odd: Segment = { ...product, inputs: [{ name: "x", dtype: "f32", width: 16 }], weights: [{ name: "w", shape: [width, 16] }] };
  const data = new Uint8Array((width * 16 * 34) / 32);
  await assert.rejects(backend.compile(odd, { w: { form: "q8_0", shape: [width, 16], data } }), (error: any) => {
    return error.code === "InvalidArgument" && /w.*16.*q8_0.*32/.test(error.message);
  });
  await backend.close();
});

test("metadata that is freed twice leaves what is at its address by then alone", () => {
  const device = new CpuDevice({ threads: 1 });
  const freed: bigint[] = [];
  const oneAddress = { ggml_init: () => 64n, ggml_free: (context: bigint) => void freed.push(context) };
  Object.assign(device, { ggml: { ...device.ggml, ...oneAddress } });
  const first = device.metadata(4);
  first.free();
  const second = device.metadata(4);
  first.free();
  assert.deepEqual([freed, second.context], [[64n], first.context]);
  device.close();
  second.free();
  assert.deepEqual(freed, [64n, 64n]);
});
