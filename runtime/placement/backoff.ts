// The share of its transfer limit that a rank uses while experts move under traffic: DECISIONS.md 5.

export interface Gaps {
  readonly count: number;
  readonly p90Ms: number;
}

type BackoffReason = "LatencyRisen" | "Calm" | "NoTokens" | "TooFewTokens" | "NoBaseline";

export interface BackoffDecision {
  readonly share: number;
  readonly reason: BackoffReason;
  readonly message: string;
}

/** Above 0, since the memory of two placements is held until a move ends. */
export const leastShare = 1 / 8;
/** After so many looks at the least share with latency still risen, traffic has grown and the move is not the cause. */
export const leastLooksMax = 15;
const shareStep = 1 / 16;
/** Latency counts as risen above this multiple of the quiet latency. */
const risenRatio = 1.25;
const quietGapsMin = 50;
const movingGapsMin = 20;

/** `moving`: gaps since the last decision that had enough of them. */
export function nextShare(share: number, quiet: Gaps, moving: Gaps): BackoffDecision {
  const keep = (reason: BackoffReason, message: string): BackoffDecision => ({ share, reason, message });
  const more = Math.min(1, share + shareStep);
  if (moving.count === 0) return { share: more, reason: "NoTokens", message: "no tokens to slow down" };
  if (quiet.count < quietGapsMin)
    return keep("NoBaseline", `${quiet.count} gaps between tokens before the move, ${quietGapsMin} are needed`);
  if (moving.count < movingGapsMin) return keep("TooFewTokens", `${moving.count} gaps between tokens, ${movingGapsMin} are needed`);
  const compared = `p90 between tokens ${moving.p90Ms.toFixed(1)} ms, ${quiet.p90Ms.toFixed(1)} ms before the move`;
  if (moving.p90Ms > risenRatio * quiet.p90Ms) return { share: Math.max(leastShare, share / 2), reason: "LatencyRisen", message: compared };
  return { share: more, reason: "Calm", message: compared };
}

export function summarize(gapsMs: readonly number[]): Gaps {
  const sorted = gapsMs.toSorted((a, b) => a - b);
  return { count: sorted.length, p90Ms: sorted[Math.ceil(sorted.length * 0.9) - 1] ?? 0 };
}

/** The longest that a transfer takes at the least share; 0 = unlimited. */
export function slowestTransferMs(bytes: number, bytesPerSecond: number): number {
  return bytesPerSecond > 0 ? Math.ceil((bytes / (bytesPerSecond * leastShare)) * 1000) : 0;
}
