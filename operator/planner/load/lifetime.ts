// The time that a forecast is expected to hold: what a plan that was made for it may count on. A load that changes often, or moves
// on all the time, makes plans short-lived. Pure; the Forecaster watches, this judges.

/** Windows between two changes of load while none was seen; it counts like so many windows watched. */
export const assumedWindows = 20;
/** A plan is never expected to hold for less, or for more, windows. */
export const windowsMin = 8;
export const windowsMax = 80;

export interface Restlessness {
  /** Windows watched, and changes of load (alarms) among them. */
  readonly watched: number;
  readonly changes: number;
  /** Part of the load, 0 to 1, by which forecasts miss a window beyond sampling noise. */
  readonly unrest: number;
  /**
   * Part of such a miss that stays, 0 to 1: the weight of the newest window in the average that predicts best. Load that only
   * swings about its mean is best predicted by a slow average, and no plan gets worse by it.
   */
  readonly lasting: number;
}

/** Windows that the forecast is expected to hold, between `windowsMin` and `windowsMax`. */
export function expectedWindows({ watched, changes, unrest, lasting }: Restlessness): number {
  const untilChange = (assumedWindows + watched) / (1 + changes);
  // The gain fades evenly until as much has moved as there is load: worth half of that time in full.
  const drift = unrest * lasting;
  const untilDrifted = drift > 0 ? 0.5 / drift : Number.POSITIVE_INFINITY;
  return Math.min(windowsMax, Math.max(windowsMin, Math.min(untilChange, untilDrifted)));
}
