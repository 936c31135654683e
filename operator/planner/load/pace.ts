// How soon the next plan may come and how much it may move: at once and more after a change of load, later while the load holds still and
// plans find nothing better. Pure.
import type { Decision } from "../decide.ts";
import type { Forecast } from "./forecast.ts";

/** Expert replicas that a plan may newly place where spec.rebalancing.budget.maxMoves is not given. */
export const movesDefault = 64;
/** A plan right after a change of load may place so many times as many. A cap that somebody has set is never raised. */
const changeFactor = 2;
/** A change of load counts as fresh for so many windows, or until a plan was judged; after that the usual pace holds. */
const changeWindows = 4;
/** The load holds still when so many windows in a row differed by no more than this many times their sampling noise. */
const quietWindowsMin = 8;
const quietNoise = 2;
/** Each plan in a row that found nothing better doubles the interval of a quiet load, up to so many times. */
const intervalFactorMax = 4;

export class Pace {
  #changeLeft = 0;
  #quiet = 0;
  #fruitless = 0;

  /** Takes note that a window was taken into the forecast. */
  observe({ alarm, change, noiseFloor }: Pick<Forecast, "alarm" | "change" | "noiseFloor">): void {
    this.#changeLeft = alarm ? changeWindows : Math.max(0, this.#changeLeft - 1);
    this.#quiet = alarm || change > quietNoise * noiseFloor ? 0 : this.#quiet + 1;
    if (this.#quiet === 0) this.#fruitless = 0;
  }

  /** Takes the decision on a plan that was made. */
  judged({ reason }: Pick<Decision, "reason">): void {
    this.#changeLeft = 0;
    this.#fruitless = reason === "NoBetterPlan" || reason === "TransferNotWorth" ? this.#fruitless + 1 : 0;
  }

  /** Forgets that plans found nothing better, since ranks came or went and the next one may. */
  forget(): void {
    this.#fruitless = 0;
  }

  /** True when the load has changed, and no plan was judged since. */
  get changed(): boolean {
    return this.#changeLeft > 0;
  }

  /** The factor on the time between plans. */
  get intervalFactor(): number {
    return this.#quiet < quietWindowsMin ? 1 : Math.min(intervalFactorMax, 2 ** this.#fruitless);
  }
}

/** The number of expert replicas that the next plan may newly place; `given` is the spec's. */
export function movesAllowed(given: number | undefined, changed: boolean): number {
  return given ?? movesDefault * (changed ? changeFactor : 1);
}
