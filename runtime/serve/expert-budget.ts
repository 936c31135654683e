// How many resident bytes a rank may spend on experts when spec.experts.memoryPerRank does not say.
// The one place that asks the machine for its memory.
import { totalmem } from "node:os";

/** Left free of the limit: allocator slack, buffers of requests and transfers. */
const headroom = 0.15;

/**
 * `configured` bytes, or for 0 what the container limit leaves beside the dense part, the KV pool and 15%. Without a limit it is
 * the machine that counts, as if this rank were alone on it. Memory of a GPU is not known here: there `configured` must be given.
 */
export function expertBudgetBytes(
  configured: number,
  model: { readonly denseBytes: number; readonly kvBytes: number },
  memory: { readonly limit: number; readonly total: number } = { limit: process.constrainedMemory(), total: totalmem() },
): number {
  if (configured > 0) return configured;
  // Without a limit cgroup v1 gives a number beyond any machine, v2 gives 0.
  const bytes = memory.limit > 0 ? Math.min(memory.limit, memory.total) : memory.total;
  return Math.max(0, Math.floor(bytes * (1 - headroom) - model.denseBytes - model.kvBytes));
}
