// The time behind which policies hide transfers, from measured steps and rates.
import { type Phase, phases } from "../../../crds/telemetry.ts";
import { type ByPath, pathBetween, placeOf } from "../../../runtime/placement/cost.ts";
import type { PlanInput, PlanOutput, RankSpec, Timing } from "../policy.ts";
import { type Decision, predictedLayers } from "../replan.ts";
import type { Forecast } from "./forecast.ts";
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

export interface PhaseLoad {
  readonly phase: Phase;
  readonly selections: number;
  /** max/mean over ranks under the plan's weights: worst layer, and mean of layers. */
  readonly worst: number;
  readonly mean: number;
}

/** Leaves out phases and layers with fewer than `rowsMin` selections. */
export function phaseLoads(input: PlanInput, window: Pick<ClosedWindow, "routedByPhase">, rowsMin: number): PhaseLoad[] {
  const { layers, experts } = input.shape;
  return phases.flatMap((phase): PhaseLoad[] => {
    const load = window.routedByPhase[phase];
    const rows = Array.from({ length: layers }, (_, l) => load.subarray(l * experts, (l + 1) * experts).reduce((a, b) => a + b, 0));
    const ratios = predictedLayers({ ...input, load }, input.current ?? []).filter((_, l) => (rows[l] as number) >= Math.max(1, rowsMin));
    if (ratios.length === 0) return [];
    const mean = ratios.reduce((a, b) => a + b, 0) / ratios.length;
    return [{ phase, selections: rows.reduce((a, b) => a + b, 0), worst: Math.max(...ratios), mean }];
  });
}

/** The replicas that a plan may newly place without spec.rebalancing.budget.maxMoves. */
export const movesDefault = 64;
/** The factor for a plan right after a change of load. It never raises a configured cap. */
const changeFactor = 2;
/** A change of load counts as fresh for this many windows, or until a plan was judged. */
const changeWindows = 4;
/** The load is quiet when this many windows in a row differed by at most this multiple of their noise. */
const quietWindowsMin = 8;
const quietNoise = 2;
/** In a quiet load each plan without a gain doubles the interval, up to this factor. */
const intervalFactorMax = 4;

export class Pace {
  #changeLeft = 0;
  #quiet = 0;
  #fruitless = 0;

  observe({ alarm, change, noiseFloor }: Pick<Forecast, "alarm" | "change" | "noiseFloor">): void {
    this.#changeLeft = alarm ? changeWindows : Math.max(0, this.#changeLeft - 1);
    this.#quiet = alarm || change > quietNoise * noiseFloor ? 0 : this.#quiet + 1;
    if (this.#quiet === 0) this.#fruitless = 0;
  }

  judged({ reason }: Pick<Decision, "reason">): void {
    this.#changeLeft = 0;
    this.#fruitless = reason === "NoBetterPlan" || reason === "TransferNotWorth" ? this.#fruitless + 1 : 0;
  }

  forget(): void {
    this.#fruitless = 0;
  }

  get changed(): boolean {
    return this.#changeLeft > 0;
  }

  get intervalFactor(): number {
    return this.#quiet < quietWindowsMin ? 1 : Math.min(intervalFactorMax, 2 ** this.#fruitless);
  }
}

/** The replicas that the next plan may newly place; `given` is the spec's number. */
export function movesAllowed(given: number | undefined, changed: boolean): number {
  return given ?? movesDefault * (changed ? changeFactor : 1);
}

export class ReshardAge {
  #last: number | undefined;

  forget(): void {
    this.#last = undefined;
  }

  /** A resharding that the budget cut short goes on in the next plan. */
  planned(window: number, { resharding }: Pick<PlanOutput, "resharding">): void {
    if (resharding !== undefined) this.#last = resharding ? undefined : window;
  }

  input(window: number): Pick<PlanInput, "windowsSinceReshard"> {
    return this.#last === undefined ? {} : { windowsSinceReshard: window - this.#last };
  }
}
