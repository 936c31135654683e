// Facts about each backend that the operator needs before any worker runs. The interface of a running backend is
// runtime/compute/backend.ts.
import { type BackendName, backendNames } from "./names.ts";

/**
 * `host`: the container's limit counts it. `device`: it does not, and the size is unknown before a worker runs, so
 * spec.experts.memoryPerRank is required.
 */
const expertMemory: Readonly<Record<BackendName, "host" | "device">> = {
  cpu: "host",
  cuda: "device",
  vulkan: "device",
  metal: "device",
  reference: "host",
};

export const deviceMemoryBackends: readonly BackendName[] = backendNames.filter((name) => expertMemory[name] === "device");

/** The backend of a device name such as "cpu: AMD EPYC". */
export const backendOf = (device: string): string => device.split(":", 1)[0] ?? "";

/** False also for Auto and unknown names. */
export function usesDeviceMemory(backend: string): boolean {
  return deviceMemoryBackends.some((name) => name === backend);
}
