// How soon the next plan may come and how much it may move: sooner and more after a change of load, later while the load holds still.
import type { Decision } from "../decide.ts";
import type { Forecast } from "./forecast.ts";

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
