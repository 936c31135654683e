// Computes a frame on this rank's engine, with on-demand loads if requested; for other ranks (server.ts) and for this one (client.ts).
import { AppError } from "../../../crds/common.ts";
import type { Phase } from "../../../crds/telemetry.ts";
import type { Engine, RowOrigin } from "../../engine/engine.ts";
import { partOf } from "../../placement/frames/frames.ts";
import { missingExperts, notHosted } from "../../placement/frames/not-hosted.ts";
import { type Pairs, scatterRows } from "../../placement/frames/pairs.ts";
import type { GiveWay, Materializer } from "../memory/materializer.ts";

/** Milliseconds before a request fails with `ExpertUnavailable`. */
export const expertWaitMs = 30_000;

export interface FrameRunnerOptions {
  readonly engine: Pick<Engine, "runExperts">;
  readonly materializer: Materializer;
  readonly hidden: number;
  readonly sourcesOf: (layer: number, expert: number) => readonly number[];
  /** Undefined where another rank should load it. */
  readonly giveWay: (layer: number, expert: number) => GiveWay | undefined;
  readonly wanted: (layer: number, expert: number) => boolean;
  readonly onDemandLoad: (result: "ok" | "error") => void;
}

export interface FrameOf {
  readonly layer: number;
  readonly phase: Phase;
  readonly origin: RowOrigin;
}

export class FrameRunner {
  readonly #options: FrameRunnerOptions;

  constructor(options: FrameRunnerOptions) {
    this.#options = options;
  }

  /** Unweighted rows [pairs, hidden]; rejects with `NotHosted` (see missingExperts). */
  async run(of: FrameOf, work: Pairs): Promise<Float32Array> {
    const { layer, phase, origin } = of;
    const rows = await this.#options.engine.runExperts({ layer, phase, origin, ...work });
    this.#options.materializer.residents.touch(layer, new Set(work.pairExperts));
    return rows;
  }

  /**
   * Like `run`, but loads missing experts one after another, so that one staging slot is enough. `NotHosted` means that memory is full.
   */
  async runOnDemand(of: FrameOf, work: Pairs, signal = AbortSignal.timeout(expertWaitMs)): Promise<Float32Array> {
    try {
      return await this.run(of, work);
    } catch (error) {
      if (missingExperts(error).length === 0) throw error;
    }
    const { hidden, materializer } = this.#options;
    const out = new Float32Array(work.pairExperts.length * hidden);
    const { layer } = of;
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
        return this.run(of, work);
      });
      if (!wasHere) onDemandLoad("ok");
      return rows;
    } catch (caught) {
      const error = AppError.from(caught);
      if (error.code === "NoRoom") throw error;
      if (!wasHere) onDemandLoad("error");
      if (!signal.aborted) throw error;
      throw new AppError(`expert ${layer}/${expert} could not be loaded within ${expertWaitMs / 1000} s`, {
        code: "ExpertUnavailable",
        operation: "loading on demand",
        cause: error,
        retry: { afterMs: 1_000 },
      });
    }
  }
}
