// The backends there are, by the name spec.runtime.backend takes. To add one: its folder, its name in crds, one line here
// (a missing line is a compile error). Loaded lazily, so an image without a backend's library still runs the others.
import { AppError } from "../../crds/common.ts";
import type { BackendName } from "../../crds/moe-deployment.ts";
import type { Backend, BackendFactory, BackendOptions } from "./backend.ts";

export type ConcreteBackendName = Exclude<BackendName, "Auto">;

export const backends: { readonly [Name in ConcreteBackendName]: () => Promise<BackendFactory> } = {
  cpu: async () => (await import("./cpu/index.ts")).createCpuBackend,
  webgpu: async () => (await import("./webgpu/index.ts")).createWebGpuBackend,
  reference: async () => (await import("./reference.ts")).createReferenceBackend,
};

/** Auto: webgpu when an adapter that is no software rasteriser is there, else cpu. */
export async function chooseBackend(name: BackendName): Promise<ConcreteBackendName> {
  if (name !== "Auto") return name;
  const { findHardwareAdapter } = await import("./webgpu/device.ts");
  return (await findHardwareAdapter()) ? "webgpu" : "cpu";
}

export async function createBackend(name: BackendName, options: BackendOptions): Promise<Backend> {
  const chosen = await chooseBackend(name);
  try {
    return await (await backends[chosen]())(options);
  } catch (caught) {
    if (caught instanceof AppError) throw caught;
    throw new AppError(`backend ${chosen} does not start: ${caught instanceof Error ? caught.message : String(caught)}`, {
      code: "BackendUnavailable",
      operation: `starting backend ${chosen}`,
      cause: caught,
    });
  }
}
