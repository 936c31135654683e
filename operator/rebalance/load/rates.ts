// The rates at which bytes of experts really come, by path: receivers say with each layer that is ready what they took from whom and
// how long that took them (Fetched), nodes and zones say which path that was. What nobody has measured is assumed. The load picture
// keeps them for the price of plans; nothing is paced by them. No I/O.
import { assumedRates, type ByPath, byPath, type Fetched, pathBetween, type TransferPath } from "../../../runtime/placement/cost.ts";
import type { RankSpec } from "../../planner/policy.ts";

/** Of the transfers of a path the last few minutes count: sums are halved beyond so many seconds of receiving. */
const rememberedSeconds = 120;
/** An hour ago a slow path may have been an outage; held back by that, it would never be measured again. */
const measuredForMs = 3_600_000;
/** Below this a path counts as not measured: what is small says how long a call takes, not how fast bytes come. */
const leastBytes = 1024 * 1024;

interface Sums {
  bytes: number;
  seconds: number;
  at: number;
}

export class PathRates {
  readonly #sums = new Map<TransferPath, Sums>();
  #limit: number | undefined;

  /** `ranks` place the receiver and its sources; what came from one that is not among them is left out. */
  add(ranks: readonly RankSpec[], receiver: number, fetched: readonly Fetched[], now: number): void {
    const placeOf = (rank: number) => {
      const spec = ranks.find((one) => one.rank === rank);
      return spec && { rank, node: `${spec.zone}/${spec.node}`, zone: spec.zone };
    };
    const to = placeOf(receiver);
    for (const { source, bytes, seconds } of fetched) {
      const from = source === "store" ? undefined : placeOf(source);
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
   * Bytes per second of one receiver. `limit`: what it may take; transfers under another limit say nothing of what this one
   * allows, so they are forgotten.
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
