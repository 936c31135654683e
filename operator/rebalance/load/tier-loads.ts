// What ranks that serve more than they hold load for tokens: measured beside what planner/tiers.ts foresees for the plan.
import type { Misses } from "../../../crds/telemetry.ts";
import { sum } from "../../../runtime/placement/imbalance.ts";
import { addMisses, type ClosedWindow, noMisses } from "../../planner/load/windows.ts";
import type { PlanInput } from "../../planner/policy.ts";
import { forecastTiers, type TiersForecast } from "../../planner/tiers.ts";

export interface TierLook {
  readonly forecast: TiersForecast;
  readonly servedBytes: number;
  readonly memoryBytes: number;
  /** What recent loads of a rank reached; undefined while there were none. */
  readonly bytesPerSecond: number | undefined;
  readonly measured: MeasuredLoads | undefined;
}

/** Per token. */
interface MeasuredLoads {
  readonly loads: number;
  /** At the rank where it is most. */
  readonly loadSeconds: number;
  /** Stored bytes, by rank. */
  readonly bytes: ReadonlyMap<number, number>;
}

/** What is left of a window's counts after another one, and the tokens from which they are told. */
const kept = 0.8;
const tokensMin = 200;
/** Bytes from which the rate of loads is told. */
const bytesMin = 1e6;

type ByRank = ReadonlyMap<number, Misses>;

const aged = ({ loads, bytes, micros }: Misses = noMisses): Misses => ({ loads: kept * loads, bytes: kept * bytes, micros: kept * micros });
const newer = (before: ByRank, now: ByRank): ByRank =>
  new Map([...now].map(([rank, own]) => [rank, addMisses(aged(before.get(rank)), own)]));

export class TierLoads {
  #tokens = 0;
  #byRank: ByRank = new Map();
  /** Apart from those above, since a plan changes what is loaded and not how fast. */
  #forRates: ByRank = new Map();

  observe({ misses, perLayer }: Pick<ClosedWindow, "misses" | "perLayer">, topK: number): void {
    if (!misses || topK < 1) return;
    const chosen = perLayer.filter((count) => count > 0);
    this.#tokens = kept * this.#tokens + sum(chosen) / topK / Math.max(1, chosen.length);
    this.#byRank = newer(this.#byRank, misses);
    this.#forRates = newer(this.#forRates, misses);
  }

  /** Another plan has other loads. */
  restart(): void {
    [this.#tokens, this.#byRank] = [0, new Map()];
  }

  /** Undefined while nothing is known to look at. */
  look({ shape, ranks, load, current }: PlanInput, topK: number): TierLook | undefined {
    if (!current || topK < 1) return undefined;
    const bytesPerSecond = this.#rate();
    const active = ranks.filter(({ state }) => state === "active");
    return {
      forecast: forecastTiers({ shape, ranks, load, layers: current, topK, bytesPerSecond }),
      servedBytes: sum(shape.residentBytes),
      memoryBytes: sum(active.map(({ memoryBytes = 0 }) => memoryBytes)),
      bytesPerSecond,
      measured: this.#tokens < tokensMin ? undefined : this.#measured(),
    };
  }

  /** The median rank's, of two the faster one's, so that one slow disk is beside the forecast. */
  #rate(): number | undefined {
    const known = [...this.#forRates.values()].filter(({ bytes, micros }) => bytes >= bytesMin && micros > 0);
    const rates = known.map(({ bytes, micros }) => (bytes * 1e6) / micros).sort((a, b) => b - a);
    return rates[Math.floor((rates.length - 1) / 2)];
  }

  #measured(): MeasuredLoads {
    const [tokens, all] = [this.#tokens, [...this.#byRank.values()]];
    return {
      loads: sum(all.map(({ loads }) => loads)) / tokens,
      loadSeconds: Math.max(0, ...all.map(({ micros }) => micros)) / 1e6 / tokens,
      bytes: new Map([...this.#byRank].map(([rank, { bytes }]) => [rank, bytes / tokens])),
    };
  }
}
