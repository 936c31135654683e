// This table declares of each backend what the operator has to know before any worker runs; the CRD's rules are made of it.
// What a worker asks of a running backend is the interface in runtime/backends/backend.ts.
import { type BackendName, backendNames } from "./names.ts";

/**
 * The memory in which a backend holds experts. `host`: memory that the container's limit counts. `device`: memory that no container limit
 * counts and of which the size cannot be read, so that spec.experts.memoryPerRank has to say it.
 */
const expertMemory = { cpu: "host", ggml: "host", webgpu: "device", reference: "host" } as const satisfies Record<
  BackendName,
  "host" | "device"
>;

export const deviceMemoryBackends: readonly BackendName[] = backendNames.filter((name) => expertMemory[name] === "device");

/** The backend of a device as workers name theirs, "webgpu: NVIDIA H100". */
export const backendOf = (device: string): string => device.split(":", 1)[0] ?? "";

/** True for a backend whose experts lie in memory of a device; Auto and names that are no backend are not known to use one. */
export function usesDeviceMemory(backend: string): boolean {
  return deviceMemoryBackends.some((name) => name === backend);
}
