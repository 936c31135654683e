// What ranks that serve more than they hold load for tokens: measured beside what planner/tiers.ts foresees for the plan.
import { sum } from "../../../runtime/placement/imbalance.ts";
import type { ClosedWindow } from "../../planner/load/windows.ts";
import type { PlanInput } from "../../planner/policy.ts";
import { forecastTiers, type TiersForecast } from "../../planner/tiers.ts";

export interface TierLook {
  readonly forecast: TiersForecast;
  readonly servedBytes: number;
  readonly memoryBytes: number;
  /** Of recent loads; undefined while there were none. */
  readonly bytesPerSecond: number | undefined;
  readonly measured: MeasuredLoads | undefined;
}

/** Per token. */
interface MeasuredLoads {
  readonly loads: number;
  /** Summed over ranks. */
  readonly loadSeconds: number;
}

/** What is left of a window's counts after another one, and the tokens from which they are told. */
const kept = 0.8;
const tokensMin = 200;
/** Bytes from which the rate of loads is told. */
const bytesMin = 1e6;

export class TierLoads {
  #tokens = 0;
  #loads = 0;
  #seconds = 0;
  /** Apart from those above, since a plan changes what is loaded and not how fast. */
  #rate = { bytes: 0, seconds: 0 };

  observe({ misses, perLayer }: Pick<ClosedWindow, "misses" | "perLayer">, topK: number): void {
    if (!misses || topK < 1) return;
    const chosen = perLayer.filter((count) => count > 0);
    const seconds = misses.micros / 1e6;
    this.#tokens = kept * this.#tokens + sum(chosen) / topK / Math.max(1, chosen.length);
    this.#loads = kept * this.#loads + misses.loads;
    this.#seconds = kept * this.#seconds + seconds;
    this.#rate = { bytes: kept * this.#rate.bytes + misses.bytes, seconds: kept * this.#rate.seconds + seconds };
  }

  /** Another plan has other loads. */
  restart(): void {
    [this.#tokens, this.#loads, this.#seconds] = [0, 0, 0];
  }

  /** Undefined while nothing is known to look at. */
  look({ shape, ranks, load, current }: PlanInput, topK: number): TierLook | undefined {
    if (!current || topK < 1) return undefined;
    const { bytes, seconds } = this.#rate;
    const bytesPerSecond = bytes >= bytesMin && seconds > 0 ? bytes / seconds : undefined;
    const active = ranks.filter(({ state }) => state === "active");
    return {
      forecast: forecastTiers({ shape, ranks, load, layers: current, topK, bytesPerSecond }),
      servedBytes: sum(shape.residentBytes),
      memoryBytes: sum(active.map(({ memoryBytes = 0 }) => memoryBytes)),
      bytesPerSecond,
      measured: this.#tokens < tokensMin ? undefined : { loads: this.#loads / this.#tokens, loadSeconds: this.#seconds / this.#tokens },
    };
  }
}
