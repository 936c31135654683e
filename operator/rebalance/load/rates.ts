// Measured bytes per second of experts, by path. Receivers report what they took from whom; a path without measurement has an assumed
// rate.
import {
  assumedRates,
  type ByPath,
  byPath,
  type Fetched,
  pathBetween,
  placeOf,
  type TransferPath,
} from "../../../runtime/placement/cost.ts";
import type { RankSpec } from "../../planner/policy.ts";

/** The sums of a path are halved beyond this many seconds of receiving. */
const rememberedSeconds = 120;
/** Measurements expire, else a path that was slow once would be avoided and never measured again. */
const measuredForMs = 3_600_000;
/** Fewer bytes measure the latency of a call, not the rate. */
const leastBytes = 1024 * 1024;

interface Sums {
  bytes: number;
  seconds: number;
  at: number;
}

export class PathRates {
  readonly #sums = new Map<TransferPath, Sums>();
  #limit: number | undefined;

  /** `ranks` give the places; bytes from other ranks are left out. */
  add(ranks: readonly RankSpec[], receiver: number, fetched: readonly Fetched[], now: number): void {
    const placed = (rank: number) => {
      const spec = ranks.find((one) => one.rank === rank);
      return spec && placeOf(spec);
    };
    const to = placed(receiver);
    for (const { source, bytes, seconds } of fetched) {
      const from = source === "store" ? undefined : placed(source);
      if (!to || (source !== "store" && !from) || !(bytes > 0 && seconds > 0 && seconds < Infinity)) continue;
      const path = from ? pathBetween(to, from) : "store";
      if (path !== "pod") this.#count(path, bytes, seconds, now);
    }
  }

  #count(path: TransferPath, bytes: number, seconds: number, now: number): void {
    const known = this.#sums.get(path);
    const sums = known && now - known.at <= measuredForMs ? known : { bytes: 0, seconds: 0, at: now };
    sums.bytes += bytes;
    sums.seconds += seconds;
    sums.at = now;
    if (sums.seconds > rememberedSeconds) {
      sums.bytes /= 2;
      sums.seconds /= 2;
    }
    this.#sums.set(path, sums);
  }

  /** Bytes per second of one receiver by path, at most `limit`. Transfers under another limit are forgotten. */
  rates(limit: number, now: number): ByPath {
    if (this.#limit !== undefined && limit !== this.#limit) this.#sums.clear();
    this.#limit = limit;
    return byPath((path) => {
      const sums = this.#sums.get(path);
      const measured = sums && sums.bytes >= leastBytes && now - sums.at <= measuredForMs;
      return Math.min(limit, measured ? sums.bytes / sums.seconds : assumedRates[path]);
    });
  }
}
