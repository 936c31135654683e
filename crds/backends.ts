// This table declares of each backend what the operator has to know before any worker runs. What a worker asks of a running backend is
// the interface in runtime/compute/backend.ts.
import { type BackendName, backendNames } from "./names.ts";

/**
 * The memory in which a backend holds experts. `host`: memory that the container's limit counts. `device`: memory that it does not, and
 * whose size nobody knows before a worker runs, so that spec.experts.memoryPerRank has to say it.
 */
const expertMemory: Readonly<Record<BackendName, "host" | "device">> = {
  cpu: "host",
  cuda: "device",
  vulkan: "device",
  metal: "device",
  reference: "host",
};

export const deviceMemoryBackends: readonly BackendName[] = backendNames.filter((name) => expertMemory[name] === "device");

/** The backend of a device as workers name theirs, "cpu: AMD EPYC". */
export const backendOf = (device: string): string => device.split(":", 1)[0] ?? "";

/** True for a backend whose experts lie in memory of a device; Auto and names that are no backend are not known to use one. */
export function usesDeviceMemory(backend: string): boolean {
  return deviceMemoryBackends.some((name) => name === backend);
}
