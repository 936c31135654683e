// Hecate's overlap degree and calibration rule (arXiv 2502.02581), for serving: which expert replicas are worth the transfer time that
// other work does not hide.

/** Experts whose bytes arrive during other work of the rank: the paper's t = T_nonMoE x bandwidth / expert bytes. */
export function overlapDegree(denseSeconds: number, bytesPerSecond: number, expertBytes: number): number {
  if (expertBytes <= 0) return Number.POSITIVE_INFINITY;
  return Math.floor((Math.max(0, denseSeconds) * bytesPerSecond) / expertBytes + 1e-9);
}

export interface Materialised {
  readonly hosts: number[][];
  readonly worst: number;
  readonly arrivals: ArrayLike<number>;
}

export interface Exposure {
  /** Expert replicas per rank whose transfer is hidden. */
  readonly overlap: number;
  readonly secondsPerExpertReplica: number;
  /** Transfer time that nothing hides, since it occupies the processor; unset: none. */
  readonly busyPerExpertReplica?: number;
  /** Seconds that one point (1.0) of max/mean costs while the plan holds. */
  readonly secondsPerPoint: number;
}

export function exposedSeconds({ arrivals }: Pick<Materialised, "arrivals">, exposure: Exposure): number {
  const { overlap, secondsPerExpertReplica, busyPerExpertReplica = 0 } = exposure;
  let most = 0;
  for (let g = 0; g < arrivals.length; g++) {
    const [expertReplicas, beyond] = [arrivals[g] as number, (arrivals[g] as number) - overlap];
    most = Math.max(most, expertReplicas * busyPerExpertReplica + (beyond > 0 ? beyond * secondsPerExpertReplica : 0));
  }
  return most;
}

/**
 * Takes the first way unless another saves more than its additional exposed time; of those, the one with the highest net gain. Ties go
 * to the earlier.
 */
export function calibrated<T extends Materialised>(ways: readonly [T, ...T[]], exposure: Exposure): T {
  const cost = (way: T): number => way.worst * exposure.secondsPerPoint + exposedSeconds(way, exposure);
  let best = ways[0];
  for (const way of ways) if (cost(way) < cost(best) - 1e-12) best = way;
  return best;
}
