// Formulas for the memory of a rank in sharded training. Tests compare them with measured bytes.

const floatBytes = 4;

export interface MemoryProblem {
  readonly dense: number;
  readonly denseOwned: number;
  readonly expert: number;
  /** Frozen parameters, which every rank has without gradient and moments. */
  readonly frozen: number;
  /** Embedding parameters that the head shares: their gradients are summed twice. */
  readonly tied: number;
  /** Sums of dense gradients that wait at once in the tree over the rank's micro-batches. */
  readonly subtrees: number;
  /** Bytes of optimizer state in memory: two moments take 8 per owned or shadowed parameter, unless on disk. */
  readonly stateBytes: number;
  readonly owned: number;
  readonly shadowed: number;
  /** Copied parameters while gradients are taken elsewhere; else 0. */
  readonly perturbed: number;
  readonly expertReplicas: readonly number[];
  readonly rematerialize: boolean;
  /** Sums of single micro-batches of one expert that are held at once. */
  readonly partials: number;
  readonly kept: number;
}

/** The peak bytes of expert replicas: of all layers, or of the current and the next one. */
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

/** The bytes of a rank by purpose, without frames and engine temporaries. */
export function rankBytes(problem: MemoryProblem) {
  const { perturbed, dense, denseOwned, expert, frozen, owned, shadowed, partials, stateBytes, subtrees, tied } = problem;
  const state = 2 * floatBytes * (owned * expert + denseOwned + shadowed) + stateBytes;
  const denseBytes = floatBytes * ((denseOwned < dense ? dense : 0) + (dense + tied) * (1 + subtrees));
  const sums = expertReplicaBytes(problem) + partials * expert * floatBytes + denseBytes + (frozen + perturbed) * floatBytes;
  const kept = problem.kept * floatBytes;
  return { state, sums, kept, all: state + sums + kept };
}
