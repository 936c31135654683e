// Measured bytes per second of experts, by path: receivers report what they took from whom, nodes, racks and zones give the path. A path
// that nobody measured has an assumed rate. Pure.
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

/** The newest transfers of a path count most: its sums are halved beyond so many seconds of receiving. */
const rememberedSeconds = 120;
/** A measurement is forgotten after this: a path that was slow in an outage would else be avoided, and never measured again. */
const measuredForMs = 3_600_000;
/** A path with fewer bytes counts as not measured: little data shows how long a call takes, not how fast bytes come. */
const leastBytes = 1024 * 1024;

interface Sums {
  bytes: number;
  seconds: number;
  at: number;
}

export class PathRates {
  readonly #sums = new Map<TransferPath, Sums>();
  #limit: number | undefined;

  /** Adds what a receiver took. `ranks` place it and its sources; bytes from a rank that is not among them are left out. */
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

  /**
   * Bytes per second that one receiver gets by each path, at most the `limit` that it may take. Transfers under another limit say
   * nothing of what this one allows, so they are forgotten.
   */
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
