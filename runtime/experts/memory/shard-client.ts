// The tier of peers; every byte is checked against this rank's own index.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { ModelStore } from "../../weights/store.ts";
import type { Peers } from "../peers.ts";
import { receiveUnit } from "./receive-unit.ts";
import type { SharedTime, Timed } from "./shared-time.ts";
import type { StoreReads } from "./store-reads.ts";
import type { Tier, TierRead, TierRequest } from "./tier.ts";

export interface FetchOutcome {
  readonly source: "peer" | "weight-server" | "store";
  readonly result: "ok" | "error" | "corrupt";
  readonly bytes: number;
  readonly seconds: number;
}

export interface ReportOptions {
  readonly time: SharedTime;
  readonly report: (outcome: FetchOutcome) => void;
}

export interface PeerTierOptions extends ReportOptions {
  readonly peers: Peers;
  readonly store: Pick<ModelStore, "index">;
  readonly codec: CodecName;
}

/** Asks the ranks in the given order. */
export class PeerTier implements Tier {
  readonly #peers: Peers;
  readonly #store: Pick<ModelStore, "index">;
  readonly #codec: CodecName;
  readonly #report: (outcome: FetchOutcome) => void;
  readonly #time: SharedTime;

  constructor(options: PeerTierOptions) {
    this.#peers = options.peers;
    this.#store = options.store;
    this.#codec = options.codec;
    this.#report = options.report;
    this.#time = options.time;
  }

  async read(request: TierRequest): Promise<TierRead | undefined> {
    for (const rank of request.sources) {
      if (rank === this.#peers.self.rank || !this.#peers.usable(rank)) continue;
      const got = await this.#attempt("peer", request.signal, () => this.#time.run(() => this.#fromPeer(rank, request)));
      if (got !== undefined) return { unit: got.result, source: rank, seconds: got.ms / 1000 };
    }
    return undefined;
  }

  async #attempt(source: "peer", signal: AbortSignal, run: () => Promise<Timed<Uint8Array>>): Promise<Timed<Uint8Array> | undefined> {
    const startedAt = performance.now();
    try {
      const got = await run();
      this.#report({ source, result: "ok", bytes: got.result.byteLength, seconds: (performance.now() - startedAt) / 1000 });
      return got;
    } catch (caught) {
      signal.throwIfAborted();
      const error = AppError.from(caught, "fetching a shard");
      this.#peers.options.log.info({ code: error.code, reason: error.message }, "a source could not deliver; asking the next");
      this.#report({ source, result: error.code === "CorruptShard" ? "corrupt" : "error", bytes: 0, seconds: 0 });
      return undefined;
    }
  }

  async #fromPeer(rank: number, request: TierRequest): Promise<Uint8Array> {
    const peers = this.#peers;
    const clients = peers.clients(rank);
    if (clients === undefined) throw new AppError(`rank ${rank} cannot be reached`, { code: "Unavailable" });
    return receiveUnit(
      {
        name: `rank ${rank}`,
        reads: clients.reads,
        index: this.#store.index,
        codec: this.#codec,
        onGone: (gone) => peers.onChange(() => void (peers.usable(rank) || gone())),
      },
      request,
    );
  }
}

export function storeTier(reads: Pick<StoreReads, "read">, { time, report }: ReportOptions): Tier {
  return {
    async read(request) {
      const { layer, expert, signal } = request;
      const startedAt = performance.now();
      try {
        const { result: unit, ms } = await time.run(() => reads.read(layer, expert, signal));
        report({ source: "store", result: "ok", bytes: unit.byteLength, seconds: (performance.now() - startedAt) / 1000 });
        return { unit, source: "store", seconds: ms / 1000 };
      } catch (caught) {
        const error = AppError.from(caught, "reading the model store");
        report({ source: "store", result: error.code === "CorruptShard" ? "corrupt" : "error", bytes: 0, seconds: 0 });
        throw error;
      }
    },
  };
}
