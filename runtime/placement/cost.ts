// What a copy costs, by path, and whether a plan pays for itself before the load changes again. Pure.

export type Path = "pod" | "node" | "zone" | "remote" | "store";

/** Cost of a byte by path, relative to one within a node. */
export const pathFactor: Readonly<Record<Path, number>> = { pod: 0, node: 1, zone: 2, remote: 6, store: 4 };

export interface Place {
  readonly rank: number;
  readonly node: string;
  readonly zone: string;
}

/** Cheapest path from any source to the receiver; no source = the model store. */
export function cheapestPath(receiver: Place, sources: readonly Place[]): Path {
  let best: Path = "store";
  for (const source of sources) {
    const path: Path =
      source.rank === receiver.rank ? "pod" : source.node === receiver.node ? "node" : source.zone === receiver.zone ? "zone" : "remote";
    if (best === "store" || pathFactor[path] < pathFactor[best]) best = path;
  }
  return best;
}

export interface Payback {
  /** Predicted max/mean before and after; layer time is proportional to it. */
  readonly before: number;
  readonly after: number;
  readonly bytes: number;
  readonly moves: number;
  readonly bytesPerSecond: number;
  /** How long the forecast is expected to hold. */
  readonly lifetimeSeconds: number;
}

/** A transfer slows serving by this part while it runs. */
const interference = 0.1;
/** Session set-up, verification and commit of one copy. */
const fixedSecondsPerMove = 0.002;

export interface Verdict {
  readonly gainSeconds: number;
  readonly costSeconds: number;
}

/**
 * What a plan saves while its forecast holds, and what its transfers take: seconds of layer time, against seconds of
 * interference while bytes move (bytesPerSecond, stored bytes) and a fixed cost per move. No move costs nothing.
 */
export function payback(p: Payback): Verdict {
  const saved = p.before > 0 ? Math.max(0, (p.before - p.after) / p.before) : 0;
  const gainSeconds = saved * p.lifetimeSeconds;
  const costSeconds = p.moves === 0 ? 0 : (p.bytes / Math.max(1, p.bytesPerSecond)) * interference + p.moves * fixedSecondsPerMove;
  return { gainSeconds, costSeconds };
}
