// The resident bytes that a rank may spend on experts when spec.experts.memoryPerRank does not say. Called once by worker.ts; the
// one place that asks the machine for its memory.
import { totalmem } from "node:os";
import { usesDeviceMemory } from "../../crds/backends.ts";
import { AppError } from "../../crds/common.ts";

/** Left free of the limit: allocator slack, buffers of requests and transfers. */
const headroom = 0.15;

/**
 * `configured` bytes, or for 0 what the container limit leaves beside the dense part, the KV pool and 15%. Without a limit it is
 * the machine that counts, as if this rank were alone on it. Throws `InvalidConfig` for 0 where experts lie in the memory of a
 * device: it does not tell how much it has, and the machine's memory says nothing of it.
 */
export function expertBudgetBytes(
  configured: number,
  model: { readonly denseBytes: number; readonly kvBytes: number; readonly backend: string; readonly device: string },
  memory: { readonly limit: number; readonly total: number } = { limit: process.constrainedMemory(), total: totalmem() },
): number {
  if (configured > 0) return configured;
  if (usesDeviceMemory(model.backend)) {
    throw new AppError(
      `experts.memoryPerRank: must be given, since this rank computes on ${model.device}, which does not tell how much memory it has; or set runtime.backend to cpu`,
      { code: "InvalidConfig", operation: "sizing the memory for experts" },
    );
  }
  // If there is no limit, cgroup v1 gives a number beyond any machine, and v2 gives 0.
  const bytes = memory.limit > 0 ? Math.min(memory.limit, memory.total) : memory.total;
  return Math.max(0, Math.floor(bytes * (1 - headroom) - model.denseBytes - model.kvBytes));
}
