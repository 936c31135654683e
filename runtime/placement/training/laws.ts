// Bytes that training with sharded experts moves, by collective, and bytes of memory that a rank holds, as formulas. Tests hold what
// is sent, and state and expert replicas that are held, against them; ranks that would not fit are refused by them before anything runs. Pure.
import { type Reduction, reducePath } from "./collectives.ts";

/** Bytes of expert replicas that spAG delivers: each host but the primary receives the chunk once. */
export function gatherBytes(hosts: readonly (readonly number[])[], chunkBytes: number): number {
  return hosts.reduce((sum, row) => sum + (row.length - 1) * chunkBytes, 0);
}

/** The share of a layer's chunks that leave their primary: lambda. */
export function movedShare(hosts: readonly (readonly number[])[]): number {
  return hosts.filter((row) => row.length > 1).length / hosts.length;
}

/** Bytes of sums that spRS moves: one hop between hosts in the order of lanes, one more where the primary is not the last, and one more
 *  where it has a sum already and is not the first. */
export function reduceBytes(reduction: Reduction, chunkBytes: number): number {
  const hops = reduction.blocks.map((_, chunk) => Math.max(0, reducePath(reduction, chunk).length - 1));
  return hops.reduce((sum, count) => sum + count * chunkBytes, 0);
}

const floatBytes = 4;

export interface MemoryProblem {
  /** Parameters of the dense part, which every rank has, those of them that the rank owns, and those of one expert. */
  readonly dense: number;
  readonly denseOwned: number;
  readonly expert: number;
  /** Parameters that are not trained, which every rank has: they have neither gradient nor moments. */
  readonly frozen: number;
  /** Parameters of the embedding that the head has too: their gradients are summed twice. */
  readonly tied: number;
  /** Sums of dense gradients that wait in the tree over the rank's lanes at once. */
  readonly subtrees: number;
  /** Bytes of the optimizer's state in memory: of two moments 8 a parameter that is owned or shadowed, if none lies on disk. */
  readonly stateBytes: number;
  /** Experts whose primary the rank is. */
  readonly owned: number;
  /** Parameters that it keeps for another rank. */
  readonly shadowed: number;
  /** Parameters that are kept as they are while gradients are taken elsewhere; 0 where they are taken where they are. */
  readonly perturbed: number;
  /** Expert replicas that the rank has of each layer. */
  readonly expertReplicas: readonly number[];
  /** Expert replicas are dropped after forward, and come again. */
  readonly rematerialize: boolean;
  /** Sums of single lanes of one expert that are held at once. */
  readonly partials: number;
  /** Floats that layers keep of the rank's own lanes at once, from forward to backward. */
  readonly kept: number;
}

/** Bytes of expert replicas at most at once: of all layers, or of the two that are worked on and come. */
export function expertReplicaBytes({
  expertReplicas,
  expert,
  rematerialize,
}: Pick<MemoryProblem, "expertReplicas" | "expert" | "rematerialize">): number {
  const held = rematerialize
    ? expertReplicas.reduce((most, count, layer) => Math.max(most, count + (expertReplicas[layer + 1] ?? 0)), 0)
    : expertReplicas.reduce((a, b) => a + b, 0);
  return held * expert * floatBytes;
}

/**
 * Bytes of a rank but for frames, the rows of others among them, and what the engine takes while it computes. State: parameter,
 * gradient and optimizer state of what it owns and shadows. Sums: expert replicas; sums of lanes; what is frozen or stays behind; the dense part
 * where it owns some of it only, and gradients of the dense part as backward adds to them and as they wait. Kept: what layers keep.
 */
export function rankBytes(problem: MemoryProblem) {
  const { perturbed, dense, denseOwned, expert, frozen, owned, shadowed, partials, stateBytes, subtrees, tied } = problem;
  const state = 2 * floatBytes * (owned * expert + denseOwned + shadowed) + stateBytes;
  const denseBytes = floatBytes * ((denseOwned < dense ? dense : 0) + (dense + tied) * (1 + subtrees));
  const sums = expertReplicaBytes(problem) + partials * expert * floatBytes + denseBytes + (frozen + perturbed) * floatBytes;
  const kept = problem.kept * floatBytes;
  return { state, sums, kept, all: state + sums + kept };
}
