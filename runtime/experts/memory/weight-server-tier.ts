// The tiers of a rank without a model mount: its disk, other ranks, the weight server. Fetched units are stored before they load.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { Log } from "../../observe/log.ts";
import type { ModelStore } from "../../weights/store.ts";
import type { WeightServer } from "../weight-client.ts";
import type { KeptUnits } from "./kept-units.ts";
import { receiveUnit } from "./receive-unit.ts";
import type { ReportOptions } from "./shard-client.ts";
import type { StoreReads } from "./store-reads.ts";
import type { Tier, TierRequest } from "./tier.ts";

/** Milliseconds of retries while the weight server is busy. */
const busyMs = 120_000;
const againMs = { least: 100, most: 2_000 };

export interface RemoteModel {
  readonly weightServer: WeightServer;
  readonly kept: KeptUnits;
}

export function keptTier(kept: KeptUnits, reads: Pick<StoreReads, "read">, { time, report }: ReportOptions): Tier {
  return {
    async read(request) {
      const { layer, expert, signal } = request;
      if (!kept.has(layer, expert)) return undefined;
      const startedAt = performance.now();
      try {
        const { result: unit, ms } = await time.run(() => reads.read(layer, expert, signal));
        kept.verified(layer, expert);
        report({ source: "store", result: "ok", bytes: unit.byteLength, seconds: (performance.now() - startedAt) / 1000 });
        return { unit, source: "store", seconds: ms / 1000 };
      } catch (caught) {
        signal.throwIfAborted();
        // A corrupt or lost unit is fetched from others.
        if (AppError.from(caught).code === "CorruptShard") kept.missing(layer, expert);
        return undefined;
      }
    },
  };
}

/** A disk that refuses writes costs a warning. */
export function keeping(tier: Tier, kept: KeptUnits, log: Pick<Log, "warn">): Tier {
  return {
    async read(request) {
      const read = await tier.read(request);
      if (read === undefined) return read;
      await kept.keep(request.layer, request.expert, read.unit).catch((caught) => {
        log.warn({ err: AppError.from(caught), layer: request.layer, expert: request.expert }, "an expert could not be kept on the disk");
      });
      return read;
    },
  };
}

export interface WeightServerTierOptions extends ReportOptions {
  readonly weightServer: WeightServer;
  readonly store: Pick<ModelStore, "index">;
  readonly codec: CodecName;
}

export class WeightServerTier implements Tier {
  readonly #options: WeightServerTierOptions;

  constructor(options: WeightServerTierOptions) {
    this.#options = options;
  }

  async read(request: TierRequest): ReturnType<Tier["read"]> {
    const { time, report } = this.#options;
    const endsAt = performance.now() + busyMs;
    for (let waitMs = againMs.least; ; waitMs = Math.min(againMs.most, 2 * waitMs)) {
      const startedAt = performance.now();
      try {
        const { result: unit, ms } = await time.run(() => this.#fetch(request));
        report({ source: "weight-server", result: "ok", bytes: unit.byteLength, seconds: (performance.now() - startedAt) / 1000 });
        return { unit, source: "store", seconds: ms / 1000 };
      } catch (caught) {
        request.signal.throwIfAborted();
        const { code, message } = AppError.from(caught, "fetching a shard from the weight server");
        if (code === "Busy" && performance.now() < endsAt) {
          await sleep(waitMs * (0.5 + Math.random()));
          continue;
        }
        report({ source: "weight-server", result: code === "CorruptShard" ? "corrupt" : "error", bytes: 0, seconds: 0 });
        throw new AppError(`${message}; no rank gave expert ${request.layer}/${request.expert}, and the weight server is asked again`, {
          code: code === "CorruptShard" ? code : "Unavailable",
          operation: "fetching a shard from the weight server",
          cause: caught,
          retry: "backoff",
        });
      }
    }
  }

  async #fetch(request: TierRequest): Promise<Uint8Array> {
    const { weightServer, store, codec } = this.#options;
    const reads = await weightServer.reads();
    try {
      return await receiveUnit({ name: "the weight server", reads, index: store.index, codec }, request);
    } catch (caught) {
      if (AppError.from(caught).code !== "Busy" && !request.signal.aborted) weightServer.failed(reads);
      throw caught;
    }
  }
}
