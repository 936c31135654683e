// The GPU itself through Dawn (`webgpu` package): finding an adapter, opening a device with the adapter's own limits, error scopes.
// Nothing about models here. Importing this file loads no native code; opening does.
import { AppError } from "../../../crds/common.ts";

/** Limits asked of the device: the adapter's own values instead of WebGPU's small defaults. */
const limitNames = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupsPerDimension",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
] as const;

export interface Gpu {
  readonly device: GPUDevice;
  /** The name of backend and hardware, as "webgpu: NVIDIA H100". */
  readonly name: string;
  /** True when it is a rasteriser on the machine's cores, and no GPU. */
  readonly software: boolean;
  readonly limits: Pick<GPUSupportedLimits, "maxBufferSize" | "maxStorageBufferBindingSize" | "maxComputeWorkgroupsPerDimension">;
  /** Set once the driver took the device away; every later run says so. */
  lost(): AppError | undefined;
  close(): void;
}

interface Found {
  /** Kept alive as long as anything made from it. */
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
}

async function findAdapter(): Promise<Found | undefined> {
  const { create } = await import("webgpu");
  const gpu = create([]);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  return adapter ? { gpu, adapter } : undefined;
}

/** Name of an adapter that is real hardware, or undefined: none there, a software rasteriser, or no library to ask. */
export async function findHardwareAdapter(): Promise<string | undefined> {
  try {
    const found = await findAdapter();
    return found && !found.adapter.info.isFallbackAdapter ? adapterName(found.adapter) : undefined;
  } catch {
    return undefined; // the optional package is not installed or does not load here: the same as no adapter
  }
}

function adapterName(adapter: GPUAdapter): string {
  const { vendor, device, description } = adapter.info;
  return device || description || vendor || "unnamed adapter";
}

export async function openGpu(): Promise<Gpu> {
  const found = await findAdapter();
  if (!found) {
    throw new AppError("no WebGPU adapter: install a Vulkan loader (libvulkan1) and a driver, or set spec.runtime.backend to cpu", {
      code: "BackendUnavailable",
      operation: "opening a GPU",
    });
  }
  const { adapter, gpu } = found;
  const requiredLimits = Object.fromEntries(limitNames.map((name) => [name, adapter.limits[name]]));
  const device = await adapter.requestDevice({ requiredLimits });
  let lost: AppError | undefined;
  let closed = false;
  device.lost.then((info) => {
    if (!closed) lost = new AppError(`the GPU device was lost: ${info.message || info.reason}`, { code: "DeviceLost" });
  });
  return {
    device,
    name: `webgpu: ${adapterName(adapter)}`,
    software: adapter.info.isFallbackAdapter,
    limits: device.limits,
    lost: () => lost,
    close() {
      closed = true;
      device.destroy();
      void gpu; // the instance must outlive its device
    },
  };
}

/** Runs `body` (which must not await) inside error scopes; any GPU error becomes an AppError naming the operation. */
export async function scoped<T>(gpu: Gpu, operation: string, body: () => T): Promise<T> {
  const { device } = gpu;
  const gone = gpu.lost();
  if (gone) throw gone;
  const filters = ["out-of-memory", "validation", "internal"] as const;
  for (const filter of filters) device.pushErrorScope(filter);
  const popped: Promise<GPUError | null>[] = [];
  let result: T;
  try {
    result = body();
  } finally {
    for (const _ of filters) popped.push(device.popErrorScope());
  }
  // "internal" was pushed last and comes first, "out-of-memory" last.
  const [internal, validation, memory] = await Promise.all(popped);
  if (memory) throw new AppError(`${operation}: out of device memory`, { code: "OutOfDeviceMemory", operation, cause: memory });
  const fault = validation ?? internal;
  if (fault) throw new AppError(`${operation}: ${fault.message}`, { code: "GpuError", operation, cause: fault });
  return result;
}
