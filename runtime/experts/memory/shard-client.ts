// The tiers below this rank's memory: peers that host an expert, one after another, and the model store. Every byte is checked against
// this rank's own index, whoever sent it.
import { createHash } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { leastShare } from "../../placement/backoff.ts";
import type { ModelStore } from "../../weights/store.ts";
import { fromStatus } from "../../wire/grpc.ts";
import { toSender } from "../../wire/mapping.ts";
import type { Peers } from "../peers.ts";
import { isWeights } from "./resident-set.ts";
import { chunkBytesMax } from "./shard-server.ts";
import type { SharedTime, Timed } from "./shared-time.ts";
import type { StoreReads } from "./store-reads.ts";
import type { Tier, TierRead, TierRequest } from "./tier.ts";

export interface FetchOutcome {
  readonly source: "peer" | "store";
  readonly result: "ok" | "error" | "corrupt";
  readonly bytes: number;
  readonly seconds: number;
}

/** A transfer that delivers nothing for so long is given up and the next source asked; at once when its rank is known to be gone. */
const stallMs = 5_000;

interface ReportOptions {
  /** Shared by the tiers of a rank, since they come over one link. */
  readonly time: SharedTime;
  readonly report: (outcome: FetchOutcome) => void;
}

export interface PeerTierOptions extends ReportOptions {
  readonly peers: Peers;
  readonly store: Pick<ModelStore, "index">;
  readonly codec: CodecName;
}

/** Asks the ranks that may hold the expert, best first. */
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
    if (!isWeights(request)) return undefined; // ranks serve what the store has
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
      const error = fromStatus(caught, "fetching a shard");
      this.#peers.options.log.info({ code: error.code, reason: error.message }, "a source could not deliver; asking the next");
      this.#report({ source, result: error.code === "CorruptShard" ? "corrupt" : "error", bytes: 0, seconds: 0 });
      return undefined;
    }
  }

  async #fromPeer(rank: number, { layer, expert, bytesPerSecond, rate, signal }: TierRequest): Promise<Uint8Array> {
    const entry = this.#store.index.codecs[this.#codec]?.units[layer]?.[expert];
    const clients = this.#peers.clients(rank);
    if (entry === undefined || clients === undefined) throw new AppError(`rank ${rank} cannot be reached`, { code: "Unavailable" });
    const call = clients.shards.fetch({
      sender: toSender(this.#peers.self),
      modelDigest: this.#store.index.modelDigest,
      layer,
      expert,
      codec: this.#codec,
      maxBytesPerSecond: BigInt(Math.floor(rate)),
      limitBytesPerSecond: BigInt(Math.floor(bytesPerSecond)),
    });
    const abort = () => call.cancel();
    // A chunk that is slow on purpose is not a stall, nor is one whose sender backs off.
    const chunkMs = bytesPerSecond > 0 ? (Math.min(chunkBytesMax, entry.bytes) / (bytesPerSecond * leastShare)) * 1000 : 0;
    const patienceMs = stallMs + chunkMs;
    let stall = setTimeout(abort, patienceMs);
    signal.addEventListener("abort", abort, { once: true });
    const unwatch = this.#peers.onChange(() => void (this.#peers.usable(rank) || abort()));
    const unit = new Uint8Array(entry.bytes);
    const hash = createHash("sha256");
    let received = 0;
    try {
      for await (const chunk of call as AsyncIterable<{ offset: bigint; totalBytes: bigint; data: Uint8Array }>) {
        clearTimeout(stall);
        stall = setTimeout(abort, patienceMs);
        const bad =
          Number(chunk.totalBytes) !== entry.bytes || Number(chunk.offset) !== received || received + chunk.data.byteLength > entry.bytes;
        if (bad) throw corrupt(rank, layer, expert, "sizes do not match the index");
        unit.set(chunk.data, received);
        hash.update(chunk.data);
        received += chunk.data.byteLength;
      }
    } finally {
      clearTimeout(stall);
      unwatch();
      signal.removeEventListener("abort", abort);
      call.cancel();
    }
    if (received !== entry.bytes) throw corrupt(rank, layer, expert, `${received} of ${entry.bytes} bytes`);
    if (hash.digest("hex") !== entry.sha256) throw corrupt(rank, layer, expert, "its SHA-256 is not the index's");
    return unit;
  }
}

function corrupt(rank: number, layer: number, expert: number, why: string): AppError {
  return new AppError(`expert ${layer}/${expert} from rank ${rank}: ${why}`, { code: "CorruptShard", operation: "fetching a shard" });
}

/** The last tier of weights: what it does not have is nowhere. */
export function storeTier(reads: Pick<StoreReads, "read">, { time, report }: ReportOptions): Tier {
  return {
    async read(request) {
      if (!isWeights(request)) return undefined;
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
