// The webgpu backend where a large GPU never goes: tiny limits, a lost device, a full one, a rasteriser that Auto must not take.
import "../webgpu-env.ts";
import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseBackend, createBackend } from "../../runtime/backends/index.ts";
import { findHardwareAdapter, openGpu } from "../../runtime/backends/webgpu/device.ts";
import { backendOn } from "../../runtime/backends/webgpu/index.ts";
import { randomTensor } from "../../runtime/kernels/random.ts";
import { runBackendContract } from "./backend.ts";
import { syntheticModel } from "./synthetic.ts";

runBackendContract({
  name: "webgpu with panels of 4 KiB and 300 workgroups a dimension",
  make: async () => {
    const gpu = await openGpu();
    // 300 x 300 workgroups hold the largest case; most cases then need more than one row of the grid.
    return backendOn({ ...gpu, limits: { ...limitsOf(gpu.limits), maxComputeWorkgroupsPerDimension: 300 } }, 4096);
  },
  numericClass: "tolerance",
  slack: 10,
  tolerance: 1e-4,
  int4Tolerance: 1e-4,
  lacks: ["addRow", "clampedSwiglu", "slice", "joinHeads", "groupRoute"],
});

function limitsOf({ maxBufferSize, maxStorageBufferBindingSize }: { maxBufferSize: number; maxStorageBufferBindingSize: number }) {
  return { maxBufferSize, maxStorageBufferBindingSize };
}

const model = syntheticModel();
const { expertSegment: expert } = model;
const input = { x: randomTensor(1, [2, model.program.hidden]) };

test("Auto takes no software rasteriser: cpu is chosen, and the adapter is not called hardware", async () => {
  assert.equal(await findHardwareAdapter(), undefined);
  assert.equal(await chooseBackend("Auto"), "cpu");
  assert.equal(await chooseBackend("webgpu"), "webgpu");
});

test("a backend is made by name and says what it runs on", async () => {
  const backend = await createBackend("webgpu", { threads: 1 });
  assert.match(backend.device, /^webgpu: .*swiftshader/i);
  await backend.close();
});

test("a lost device is an error that says so, not a hang", async () => {
  const gpu = await openGpu();
  const backend = backendOn(gpu);
  const program = await backend.compile(expert, model.expert(0, 0));
  await program.run(input);
  assert.equal(backend.fault(), undefined);
  gpu.device.destroy();
  await gpu.device.lost;
  await assert.rejects(program.run(input), { code: "DeviceLost" });
  assert.equal(backend.fault()?.code, "DeviceLost");
  await backend.close();
});

test("KV storage beyond the GPU's limits is refused with the remedy, and the backend works on", async () => {
  const gpu = await openGpu();
  const backend = backendOn(gpu);
  const spec = { layers: 1, slots: 1 << 16, kvHeads: 8, context: 4096, headDim: 128, valueDim: 128 };
  await assert.rejects(backend.createKv(spec), (error: any) => error.code === "OutOfDeviceMemory" && /kvPool/.test(error.message));
  const program = await backend.compile(expert, model.expert(0, 0));
  assert.equal((await program.run(input)).y?.data.length, 2 * model.program.hidden);
  await backend.close();
});

test("scratch is reused: a hundred runs at changing row counts create no further buffers", async () => {
  const gpu = await openGpu();
  let created = 0;
  const make = gpu.device.createBuffer.bind(gpu.device);
  gpu.device.createBuffer = (descriptor) => {
    created++;
    return make(descriptor);
  };
  const backend = backendOn(gpu);
  const program = await backend.compile(expert, model.expert(0, 0));
  const rows = (n: number) => ({ x: randomTensor(n, [n, model.program.hidden]) });
  for (let n = 1; n <= 16; n++) await program.run(rows(n));
  const before = created;
  for (let i = 0; i < 100; i++) await program.run(rows(1 + (i % 16)));
  assert.equal(created, before);
  await backend.close();
});
