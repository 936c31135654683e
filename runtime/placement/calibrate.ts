// Hecate's overlap degree and calibration rule (arXiv 2502.02581), for serving: how many experts' bytes come behind the work that
// is not experts, and which expert replicas beyond those are worth the time that their transfer shows. Pure.

/** Experts whose bytes come while a rank computes what is not experts: the paper's t = T_nonMoE x bandwidth / expert bytes. */
export function overlapDegree(denseSeconds: number, bytesPerSecond: number, expertBytes: number): number {
  if (expertBytes <= 0) return Number.POSITIVE_INFINITY;
  return Math.floor((Math.max(0, denseSeconds) * bytesPerSecond) / expertBytes + 1e-9);
}

/** One way to materialise a layer. */
export interface Materialised {
  readonly hosts: number[][];
  /** max/mean of the layer with these hosts. */
  readonly worst: number;
  /** Expert replicas that each rank would newly take. */
  readonly arrivals: ArrayLike<number>;
}

export interface Exposure {
  /** Expert replicas per rank that come unnoticed. */
  readonly overlap: number;
  /** Time of one expert replica's transfer. */
  readonly secondsPerExpertReplica: number;
  /** Time of each expert replica that nothing hides: its rank's processor is busy with it. Unset: none. */
  readonly busyPerExpertReplica?: number;
  /** Seconds that one point (1.0) of max/mean costs while the plan holds. */
  readonly secondsPerPoint: number;
}

/** Time of a layer's transfers that nothing hides: that of the rank with most of them. */
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
 * The calibration rule: of several ways to materialise a layer, the first one is taken unless what another saves while the plan
 * holds exceeds the time that its transfers show beyond the first one's; of those the one with most left. Ties go to the earlier.
 */
export function calibrated<T extends Materialised>(ways: readonly [T, ...T[]], exposure: Exposure): T {
  const cost = (way: T): number => way.worst * exposure.secondsPerPoint + exposedSeconds(way, exposure);
  let best = ways[0];
  for (const way of ways) if (cost(way) < cost(best) - 1e-12) best = way;
  return best;
}
