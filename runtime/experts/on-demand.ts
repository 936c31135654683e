// Computes frames of experts that this rank's engine lacks: it loads them first, for other ranks and for this one.
import { AppError } from "../../crds/common.ts";
import type { Engine, OnDemandExperts, OnDemandFrame } from "../engine/engine.ts";
import { partOf } from "../placement/frames/frames.ts";
import { missingExperts, notHosted } from "../placement/frames/not-hosted.ts";
import { type Pairs, scatterRows } from "../placement/frames/pairs.ts";
import type { GiveWay, Materializer } from "./memory/materializer.ts";

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
}

type FrameOf = Pick<OnDemandFrame, "layer" | "phase" | "origin">;

export class OnDemand implements OnDemandExperts {
  readonly #options: OnDemandOptions;

  constructor(options: OnDemandOptions) {
    this.#options = options;
  }

  async #compute({ layer, phase, origin }: FrameOf, work: Pairs): Promise<Float32Array> {
    const rows = await this.#options.engine.runExperts({ layer, phase, origin, ...work });
    this.#options.materializer.residents.touch(layer, new Set(work.pairExperts));
    return rows;
  }

  /** Loads missing experts one after another, so that one staging slot is enough. */
  async run({ layer, phase, origin, rows, pairRows, pairExperts, leftMs = loadMsMax }: OnDemandFrame): Promise<Float32Array> {
    const of = { layer, phase, origin };
    const work = { rows, pairRows, pairExperts };
    const ms = Math.min(loadMsMax, Math.max(1, Math.ceil(leftMs)));
    const signal = AbortSignal.timeout(ms);
    try {
      return await this.#compute(of, work);
    } catch (error) {
      if (missingExperts(error).length === 0) throw error;
    }
    const { hidden, materializer } = this.#options;
    const out = new Float32Array(work.pairExperts.length * hidden);
    const experts = new Set(work.pairExperts);
    for (const expert of experts) {
      const pairs = [...work.pairExperts.keys()].filter((pair) => work.pairExperts[pair] === expert);
      try {
        scatterRows(out, hidden, pairs, await this.#runOne(of, expert, partOf(work, hidden, pairs), signal));
      } catch (caught) {
        const error = AppError.from(caught);
        if (error.code !== "NoRoom") throw error;
        // All at once, to save the sender round trips.
        const absent = [...experts].filter((each) => !materializer.residents.isResident({ layer, expert: each }));
        throw notHosted(absent.length > 0 ? absent : [expert], error.message);
      }
    }
    return out;
  }

  async #runOne(of: FrameOf, expert: number, work: Pairs, signal: AbortSignal): Promise<Float32Array> {
    const { layer } = of;
    const { materializer, sourcesOf, giveWay, wanted, onDemandLoad } = this.#options;
    const wasHere = materializer.residents.isResident({ layer, expert });
    const request = { layer, expert, kind: "staged", sources: sourcesOf(layer, expert), bytesPerSecond: 0, signal } as const;
    const ways = giveWay(layer, expert);
    try {
      const rows = await materializer.withExpert(ways ? { ...request, giveWay: ways } : request, () => {
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
    }
  }
}
