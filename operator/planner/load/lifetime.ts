// The time that a forecast is expected to hold, by how often and how steadily the load changes.

/** The prior for windows between two changes of load; it weighs as many observed windows. */
export const assumedWindows = 20;
export const windowsMin = 8;
export const windowsMax = 80;

export interface Restlessness {
  readonly watched: number;
  readonly changes: number;
  /** The part of the load, 0 to 1, by which forecasts miss a window beyond sampling noise. */
  readonly unrest: number;
  /**
   * The part of such a miss that stays, 0 to 1: the weight of the newest window in the best average. A slow average predicts load that
   * only swings about its mean.
   */
  readonly lasting: number;
}

export function expectedWindows({ watched, changes, unrest, lasting }: Restlessness): number {
  const untilChange = (assumedWindows + watched) / (1 + changes);
  // The gain fades linearly until all load has moved, which is worth half of that time.
  const drift = unrest * lasting;
  const untilDrifted = drift > 0 ? 0.5 / drift : Number.POSITIVE_INFINITY;
  return Math.min(windowsMax, Math.max(windowsMin, Math.min(untilChange, untilDrifted)));
}
