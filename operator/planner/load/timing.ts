// The time behind which policies hide transfers, from measured steps and rates.
import { type ByPath, pathBetween, placeOf } from "../../../runtime/placement/cost.ts";
import type { RankSpec, Timing } from "../policy.ts";
import type { ClosedWindow } from "./windows.ts";

export interface TimingOptions {
  readonly layers: number;
  readonly ranks: readonly RankSpec[];
  readonly rates: ByPath;
  /** The nominal length of a window, for stretched ones. */
  readonly windowMs: number;
  readonly windows: number;
}

/** Undefined where a rank does not report its times. */
export function timingOf({ seconds, start, end }: ClosedWindow, options: TimingOptions): Timing | undefined {
  if (!seconds || end <= start || options.layers === 0) return undefined;
  const part = options.windowMs / (end - start) / options.layers;
  return {
    denseSeconds: seconds.dense * part,
    expertSeconds: seconds.experts * part,
    bytesPerSecond: slowestBetween(options.ranks, options.rates),
    windows: options.windows,
  };
}

/** The paper uses the bandwidth between nodes where links differ. */
function slowestBetween(ranks: readonly RankSpec[], rates: ByPath): number {
  const places = ranks.filter((rank) => rank.state === "active").map(placeOf);
  let slowest = rates.node;
  for (const to of places) {
    const path = places[0] && pathBetween(to, places[0]);
    if (path && path !== "pod") slowest = Math.min(slowest, rates[path]);
  }
  return slowest;
}
