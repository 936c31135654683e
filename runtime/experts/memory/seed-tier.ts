// The tiers of a rank that mounts no model: what it has kept on its disk, then other ranks, then the seed. What comes from elsewhere is
// kept before it is loaded, so that this rank can give it to others while the seed is away.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { fromStatus } from "../../net/grpc.ts";
import type { Log } from "../../observe/log.ts";
import type { ModelStore } from "../../weights/store.ts";
import type { Seed } from "../seed.ts";
import type { KeptUnits } from "./kept-units.ts";
import { receiveUnit } from "./receive-unit.ts";
import { isWeights } from "./resident-set.ts";
import type { ReportOptions } from "./shard-client.ts";
import type { StoreReads } from "./store-reads.ts";
import type { Tier, TierRequest } from "./tier.ts";

/** A seed that serves as many as it can is asked again, later and later, for as long as this in all. */
const busyMs = 120_000;
const againMs = { least: 100, most: 2_000 };

/** The parts that a rank without a claim has beside the others. */
export interface Seeded {
  readonly seed: Seed;
  readonly kept: KeptUnits;
}

/** What is on this rank's own disk. */
export function keptTier(kept: KeptUnits, reads: Pick<StoreReads, "read">, { time, report }: ReportOptions): Tier {
  return {
    async read(request) {
      const { layer, expert, signal } = request;
      if (!isWeights(request) || !kept.has(layer, expert)) return undefined;
      const startedAt = performance.now();
      try {
        const { result: unit, ms } = await time.run(() => reads.read(layer, expert, signal));
        report({ source: "store", result: "ok", bytes: unit.byteLength, seconds: (performance.now() - startedAt) / 1000 });
        return { unit, source: "store", seconds: ms / 1000 };
      } catch (caught) {
        signal.throwIfAborted();
        // Others have it: a rank goes on with a disk that has it no more.
        if (AppError.from(caught).code === "CorruptShard") kept.missing(layer, expert);
        return undefined;
      }
    },
  };
}

/** A tier whose units are kept. A disk that takes none costs others the way to this rank, and no more. */
export function keeping(tier: Tier, kept: KeptUnits, log: Pick<Log, "warn">): Tier {
  return {
    async read(request) {
      const read = await tier.read(request);
      if (read === undefined || !isWeights(request)) return read;
      await kept.keep(request.layer, request.expert, read.unit).catch((caught) => {
        log.warn({ err: AppError.from(caught), layer: request.layer, expert: request.expert }, "an expert could not be kept on the disk");
      });
      return read;
    },
  };
}

export interface SeedTierOptions extends ReportOptions {
  readonly seed: Seed;
  readonly store: Pick<ModelStore, "index">;
  readonly codec: CodecName;
}

/** The last tier: what the seed does not have is nowhere. */
export class SeedTier implements Tier {
  readonly #options: SeedTierOptions;

  constructor(options: SeedTierOptions) {
    this.#options = options;
  }

  async read(request: TierRequest): ReturnType<Tier["read"]> {
    if (!isWeights(request)) return undefined;
    const { time, report } = this.#options;
    const endsAt = performance.now() + busyMs;
    for (let waitMs = againMs.least; ; waitMs = Math.min(againMs.most, 2 * waitMs)) {
      const startedAt = performance.now();
      try {
        const { result: unit, ms } = await time.run(() => this.#fetch(request));
        report({ source: "seed", result: "ok", bytes: unit.byteLength, seconds: (performance.now() - startedAt) / 1000 });
        return { unit, source: "store", seconds: ms / 1000 };
      } catch (caught) {
        request.signal.throwIfAborted();
        const { code, message } = fromStatus(caught, "fetching a shard from the seed");
        if (code === "Busy" && performance.now() < endsAt) {
          await sleep(waitMs * (0.5 + Math.random()));
          continue;
        }
        report({ source: "seed", result: code === "CorruptShard" ? "corrupt" : "error", bytes: 0, seconds: 0 });
        throw new AppError(`${message}; no rank gave expert ${request.layer}/${request.expert}, and the seed is asked again`, {
          code: code === "CorruptShard" ? code : "Unavailable",
          operation: "fetching a shard from the seed",
          cause: caught,
          retry: "backoff",
        });
      }
    }
  }

  async #fetch(request: TierRequest): Promise<Uint8Array> {
    const { seed, store, codec } = this.#options;
    const clients = await seed.clients();
    try {
      return await receiveUnit({ name: "the seed", shards: clients.shards, self: seed.self, index: store.index, codec }, request);
    } catch (caught) {
      const { code } = fromStatus(caught, "fetching a shard from the seed");
      if (code !== "Busy" && !request.signal.aborted) seed.failed(clients);
      throw caught;
    }
  }
}
