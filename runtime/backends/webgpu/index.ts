// The webgpu backend: own WGSL kernels through Dawn, on whatever GPU the adapter is. Untuned f32; int4 weights stay int4.
import type { Backend, BackendFactory } from "../backend.ts";
import { checkOps } from "../check.ts";
import { BufferPool } from "./buffers.ts";
import { type Gpu, openGpu } from "./device.ts";
import { DeviceKv } from "./kv.ts";
import { lowerSegment, residentBytesOf } from "./lowered.ts";
import { PipelineCache } from "./pipelines.ts";
import { DeviceProgram } from "./program.ts";
import { webgpuCapabilities } from "./wgsl/index.ts";

/** A backend on an open GPU, which it closes with itself. Weights are cut into panels of at most `panelBytes`. */
export function backendOn(gpu: Gpu, panelBytes: number = gpu.limits.maxStorageBufferBindingSize): Backend {
  const pool = new BufferPool(gpu);
  const device = { gpu, pool, pipelines: new PipelineCache(gpu) };
  return {
    ...webgpuCapabilities,
    device: gpu.name,
    numericClass: "tolerance",
    prefillEqualsDecode: false,
    sharesCores: gpu.software,
    async compile(segment, weights) {
      checkOps(webgpuCapabilities, gpu.name, segment);
      return DeviceProgram.create(device, lowerSegment(segment, weights, panelBytes));
    },
    createKv: (spec) => DeviceKv.create(gpu, pool, spec),
    // All submissions go out before the first readback is awaited; the queue runs them in order.
    runMany: (calls) => Promise.all(calls.map(({ program, inputs }) => program.run(inputs))),
    expertResidentBytes: residentBytesOf,
    fault: () => gpu.lost(),
    async close() {
      pool.dispose();
      gpu.close();
    },
  };
}

export const createWebGpuBackend: BackendFactory = async () => backendOn(await openGpu());
