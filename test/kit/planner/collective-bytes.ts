// Formulas for the bytes that each collective of sharded training moves, to compare measured bytes with.
import { type Reduction, reducePath } from "../../../runtime/placement/training/collectives.ts";

/** Bytes of expert replicas that spAG delivers: each host but the primary receives the chunk once. */
export function gatherBytes(hosts: readonly (readonly number[])[], chunkBytes: number): number {
  return hosts.reduce((sum, row) => sum + (row.length - 1) * chunkBytes, 0);
}

/** Lambda: the share of a layer's chunks that leave their primary. */
export function movedShare(hosts: readonly (readonly number[])[]): number {
  return hosts.filter((row) => row.length > 1).length / hosts.length;
}

/**
 * Bytes of sums that spRS moves: one hop between hosts, one more where the primary is not the last, and one more where it has a sum
 * already and is not the first.
 */
export function reduceBytes(reduction: Reduction, chunkBytes: number): number {
  const hops = reduction.blocks.map((_, chunk) => Math.max(0, reducePath(reduction, chunk).length - 1));
  return hops.reduce((sum, count) => sum + count * chunkBytes, 0);
}
