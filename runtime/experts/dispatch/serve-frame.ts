// The computation of a frame of expert work on this rank's engine, loading experts on demand when asked to. Used for frames of
// other ranks (server.ts) and for this rank's own work that nobody else can do (client.ts).
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
  /** Ranks that may hold a copy, for the transfer. */
  readonly sourcesOf: (layer: number, expert: number) => readonly number[];
  /** Undefined where another rank is to have it. */
  readonly giveWay: (layer: number, expert: number) => GiveWay | undefined;
  /** True when the plan wants it here, whatever brought it. */
  readonly wanted: (layer: number, expert: number) => boolean;
  readonly onDemandLoad: (result: "ok" | "error") => void;
}

/** What a frame's pairs have in common. */
export interface FrameOf {
  readonly layer: number;
  readonly phase: Phase;
  /** Whose tokens its rows are of. */
  readonly origin: RowOrigin;
}

export class FrameRunner {
  readonly #options: FrameRunnerOptions;

  constructor(options: FrameRunnerOptions) {
    this.#options = options;
  }

  /** Unweighted rows [pairs, hidden]; rejects with `NotHosted` (see missingExperts) when an expert is not here. */
  async run(of: FrameOf, work: Pairs): Promise<Float32Array> {
    const { layer, phase, origin } = of;
    const rows = await this.#options.engine.runExperts({ layer, phase, origin, ...work });
    this.#options.materializer.residents.touch(layer, new Set(work.pairExperts));
    return rows;
  }

  /** As `run`, but loads what is missing, one expert after another: one staging slot is enough. `NotHosted` means that memory is full. */
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
        // All at once: one after another, each would cost the sender a turn.
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
        // Experts that the plan wants here stay until the plan lets them go: sources may route by it until they have drained.
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
