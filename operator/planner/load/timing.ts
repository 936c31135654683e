// The timing that policies hide transfers behind, from what was measured: where the time of a window's steps went, and how fast
// bytes come by the slowest path between ranks. Pure.
import { type ByPath, pathBetween, placeOf } from "../../../runtime/placement/cost.ts";
import type { RankSpec, Timing } from "../policy.ts";
import type { ClosedWindow } from "./windows.ts";

export interface TimingOptions {
  readonly layers: number;
  readonly ranks: readonly RankSpec[];
  /** Bytes per second of a receiver by each path. */
  readonly rates: ByPath;
  /** Length that a window should have: one that was stretched counts for as much. */
  readonly windowMs: number;
  /** Windows that a plan is expected to hold. */
  readonly windows: number;
}

/** The timing of a window; undefined where a rank does not say where its time went. */
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

/** The paper takes the bandwidth between nodes where links differ. */
function slowestBetween(ranks: readonly RankSpec[], rates: ByPath): number {
  const places = ranks.filter((rank) => rank.state === "active").map(placeOf);
  let slowest = rates.node;
  for (const to of places) {
    const path = places[0] && pathBetween(to, places[0]);
    if (path && path !== "pod") slowest = Math.min(slowest, rates[path]);
  }
  return slowest;
}
