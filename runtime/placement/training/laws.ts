// Bytes that training with sharded experts moves, by collective, and bytes of memory that a rank holds, as formulas. Tests hold what
// is sent and held against them; feasibility is reckoned with them before anything runs. Pure.
import type { Blocks } from "./blocks.ts";
import { reducePath } from "./collectives.ts";

/** Bytes of copies that spAG delivers: each host but the home receives the chunk once. */
export function gatherBytes(hosts: readonly (readonly number[])[], chunkBytes: number): number {
  return hosts.reduce((sum, row) => sum + (row.length - 1) * chunkBytes, 0);
}

/** The share of a layer's chunks that leave their home: lambda. */
export function movedShare(hosts: readonly (readonly number[])[]): number {
  return hosts.filter((row) => row.length > 1).length / hosts.length;
}

/** Bytes of sums that spRS moves: one hop between hosts in the order of lanes, one more where the home is not the last. */
export function reduceBytes(blocks: Blocks, homes: readonly number[], chunkBytes: number): number {
  const hops = blocks.map((runs, chunk) => Math.max(0, reducePath(runs, homes[chunk] as number).length - 1));
  return hops.reduce((sum, count) => sum + count * chunkBytes, 0);
}

const floatBytes = 4;

export interface MemoryProblem {
  /** Parameters of the dense part, which every rank has, and of one expert. */
  readonly dense: number;
  readonly expert: number;
  readonly ranks: number;
  /** Experts whose home the rank is. */
  readonly owned: number;
  /** Copies that the rank has of each layer. */
  readonly copies: readonly number[];
  /** Copies are dropped after forward, and come again. */
  readonly rematerialize: boolean;
  /** Sums of single lanes of one expert that are held at once. */
  readonly partials: number;
}

/** Bytes of copies at most at once: of all layers, or of the two that are worked on and come. */
export function copyBytes({ copies, expert, rematerialize }: Pick<MemoryProblem, "copies" | "expert" | "rematerialize">): number {
  const held = rematerialize
    ? copies.reduce((most, count, layer) => Math.max(most, count + (copies[layer + 1] ?? 0)), 0)
    : copies.reduce((a, b) => a + b, 0);
  return held * expert * floatBytes;
}

/** Bytes of a rank: parameter, gradient and moments of what it owns; copies; the dense part with its share of moments. */
export function rankBytes(problem: MemoryProblem): number {
  const { dense, expert, ranks, owned, partials } = problem;
  const state = 4 * floatBytes * owned * expert;
  const denseBytes = dense * (2 * floatBytes + (2 * floatBytes) / ranks);
  return state + copyBytes(problem) + partials * expert * floatBytes + denseBytes;
}
