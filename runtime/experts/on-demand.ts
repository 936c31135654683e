// Computes frames of experts that this rank's engine lacks: it loads them first, for other ranks and for this one.
import { AppError } from "../../crds/common.ts";
import type { Engine, ExpectedExperts, OnDemandExperts, OnDemandFrame } from "../engine/engine.ts";
import { partOf } from "../placement/frames/frames.ts";
import { notHosted } from "../placement/frames/not-hosted.ts";
import { type Pairs, scatterRows } from "../placement/frames/pairs.ts";
import type { GiveWay, Materializer } from "./memory/materializer.ts";
import type { PrefetchLoads } from "./prefetch-loads.ts";

/** Milliseconds that a load may take. */
const loadMsMax = 30_000;

interface OnDemandOptions {
  readonly engine: Pick<Engine, "runExperts">;
  readonly materializer: Materializer;
  readonly hidden: number;
  readonly sourcesOf: (layer: number, expert: number) => readonly number[];
  /** Undefined where another rank should load it. */
  readonly giveWay: (layer: number, expert: number) => GiveWay | undefined;
  readonly wanted: (layer: number, expert: number) => boolean;
  readonly onDemandLoad: (result: "ok" | "error") => void;
  /** Loads of one frame at once; unset: one after another, so that one staging slot is enough. */
  readonly atOnce?: number | undefined;
  /** Set where ranks serve more than they hold. */
  readonly prefetch?: PrefetchLoads | undefined;
}

/** Loads that rows have waited for since the start; overlapping ones take their time once. */
export interface Misses {
  readonly loads: number;
  readonly bytes: number;
  readonly seconds: number;
}

type FrameOf = Pick<OnDemandFrame, "layer" | "phase" | "origin">;

export class OnDemand implements OnDemandExperts {
  readonly #misses = { loads: 0, bytes: 0, seconds: 0 };
  readonly #options: OnDemandOptions;
  #waits = 0;
  #waitsSince = 0;

  constructor(options: OnDemandOptions) {
    this.#options = options;
  }

  get misses(): Misses {
    this.#waited();
    return { ...this.#misses };
  }

  async #compute({ layer, phase, origin }: FrameOf, work: Pairs): Promise<Float32Array> {
    const rows = await this.#options.engine.runExperts({ layer, phase, origin, ...work });
    this.#options.materializer.residents.touch(layer, new Set(work.pairExperts));
    return rows;
  }

  expect(expected: ExpectedExperts): void {
    const { prefetch } = this.#options;
    if (expected.used !== undefined) prefetch?.used(expected.used);
    prefetch?.expect(expected);
  }

  /** Rows of experts that are here are computed at once, those of others as these come. */
  async run({ layer, phase, origin, rows, pairRows, pairExperts, used, leftMs = loadMsMax }: OnDemandFrame): Promise<Float32Array> {
    const { hidden, materializer, atOnce = 1, prefetch } = this.#options;
    const { residents } = materializer;
    if (used !== undefined) prefetch?.used(used);
    const of = { layer, phase, origin };
    const work = { rows, pairRows, pairExperts };
    const ms = Math.min(loadMsMax, Math.max(1, Math.ceil(leftMs)));
    const together = AbortSignal.timeout(ms);
    const out = new Float32Array(pairExperts.length * hidden);
    const place = async (experts: ReadonlySet<number>, compute: (part: Pairs) => Promise<Float32Array>): Promise<void> => {
      const pairs = [...pairExperts.keys()].filter((pair) => experts.has(pairExperts[pair] as number));
      if (pairs.length > 0) scatterRows(out, hidden, pairs, await compute(partOf(work, hidden, pairs)));
    };
    const absent = new Set(pairExperts);
    const here = new Set([...absent].filter((expert) => residents.lease({ layer, expert })));
    for (const expert of here) absent.delete(expert);
    const computed = place(here, (part) => this.#compute(of, part)).finally(() => {
      for (const expert of here) materializer.release({ layer, expert });
    });
    const left = [...absent];
    const loads = Array.from({ length: Math.min(atOnce, left.length) }, async () => {
      for (let expert = left.shift(); expert !== undefined; expert = left.shift()) {
        const next = expert;
        // Many loads that follow each other take longer than the one that nobody ends.
        const signal = atOnce > 1 ? AbortSignal.timeout(ms) : together;
        await place(new Set([next]), (part) => this.#runOne(of, next, part, signal));
      }
    });
    const ended = await Promise.allSettled([computed, ...loads]);
    const failed = ended.find((each) => each.status === "rejected");
    if (failed === undefined) return out;
    const error = AppError.from(failed.reason);
    if (error.code !== "NoRoom") throw error;
    // All at once, to save the sender round trips.
    const missing = [...absent].filter((expert) => !residents.isResident({ layer, expert }));
    throw notHosted(missing.length > 0 ? missing : [...absent], error.message);
  }

  async #runOne(of: FrameOf, expert: number, work: Pairs, signal: AbortSignal): Promise<Float32Array> {
    const { layer } = of;
    const { materializer, prefetch, sourcesOf, giveWay, wanted, onDemandLoad } = this.#options;
    const wasHere = materializer.residents.isResident({ layer, expert });
    const request = { layer, expert, kind: "staged", sources: sourcesOf(layer, expert), bytesPerSecond: 0, signal } as const;
    const ways = giveWay(layer, expert);
    const joinedBytes = wasHere ? 0 : (prefetch?.joined({ layer, expert }) ?? 0);
    const arrived = wasHere ? () => {} : this.#waitForLoad();
    try {
      const rows = await materializer.withExpert(ways ? { ...request, giveWay: ways } : request, (bytes) => {
        arrived(Math.max(bytes, joinedBytes));
        // A planned expert stays until the plan releases it, since senders may route by it.
        if (wanted(layer, expert)) materializer.residents.admit({ layer, expert }, "planned");
        return this.#compute(of, work);
      });
      if (!wasHere) onDemandLoad("ok");
      return rows;
    } catch (caught) {
      const error = AppError.from(caught);
      if (error.code === "NoRoom") throw error;
      if (!wasHere) onDemandLoad("error");
      if (!signal.aborted) throw error;
      throw new AppError(`expert ${layer}/${expert} could not be loaded in its time`, {
        code: "ExpertUnavailable",
        operation: "loading on demand",
        cause: error,
        retry: { afterMs: 1_000 },
      });
    } finally {
      arrived();
    }
  }

  /** Returns what ends the wait, with the bytes of a load that was this one's own, or nobody else's; later calls do nothing. */
  #waitForLoad(): (bytes?: number) => void {
    const { prefetch } = this.#options;
    this.#waited();
    this.#waits += 1;
    prefetch?.demands(this.#waits);
    let waits = true;
    return (bytes = 0) => {
      if (!waits) return;
      waits = false;
      this.#waited();
      this.#waits -= 1;
      this.#misses.loads += bytes > 0 ? 1 : 0;
      this.#misses.bytes += bytes;
      prefetch?.demands(this.#waits);
    };
  }

  #waited(): void {
    const now = performance.now();
    if (this.#waits > 0) this.#misses.seconds += (now - this.#waitsSince) / 1000;
    this.#waitsSince = now;
  }
}
