// Brings keys and values of a text from the rank that may have them, as far as that is sooner than computing (DECISIONS.md 7).
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import type { EngineKv, KvBlock, KvLook, KvText } from "../engine/engine.ts";
import type { TransferPace } from "../experts/memory/transfer-pace.ts";
import type { Peers } from "../experts/peers.ts";
import { readLimits } from "../net/failure-detector.ts";
import { newPart, receive } from "../net/file-reads.ts";
import type { ReadLink } from "../net/read-link.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import { KvRate } from "./kv-rate.ts";
import { kvAheadBytes, kvBlocksMax } from "./kv-source.ts";

/** Fewer are computed. */
const leastTokens = 64;
/** More wait, within their time. */
const fetchesAtOnce = 4;
/** Those that run or wait; texts of more requests are computed. */
const fetchesMost = 64;
/** Milliseconds that a fetch may take, with the look at what is missing: as long as computing, within these bounds; `unknown` before this rank has computed a prompt, and at least for what must come. */
const fetchMs = { least: 200, unknown: 5_000, most: 10_000 };
/** Bytes per second that a transfer may have while tokens are as fast as without it; it follows their latency (transfer-pace.ts). */
const rateMost = 512 * 1024 * 1024;
/** Less tells no rate, but where it took all of its time. */
const measuredBytes = 256 * 1024;
const busyPauseMs = 20;
const digestBytes = 32;

interface KvFetchOptions {
  readonly kv: EngineKv;
  readonly peers: Pick<Peers, "self" | "usable" | "clients" | "onChange">;
  readonly pace: Pick<TransferPace, "begin">;
  readonly metrics: Pick<Metrics<"worker">, "add" | "observe">;
  readonly log: Pick<Log, "debug" | "warn">;
}

export interface BringOptions {
  readonly signal: AbortSignal;
  /** A stream goes on with it: bytes are waited for although rows may be sooner, which would hold up the streams that are here. */
  readonly must?: boolean;
}

interface Wanted {
  readonly text: Uint32Array;
  readonly look: KvLook;
  readonly tokens: number;
  readonly signal: AbortSignal;
  /** Aborts when computing would be done. */
  readonly late: AbortSignal;
}

interface Fetching extends Omit<Wanted, "tokens"> {
  readonly rank: number;
  readonly reads: Pick<ReadLink, "read">;
}

export class KvFetch {
  readonly #options: KvFetchOptions;
  readonly #running = new Set<Promise<void>>();
  /** The fetch that brings a block, by the block's identity. */
  readonly #coming = new Map<string, Promise<unknown>>();
  #open = 0;
  /** One for each rank that gave. */
  readonly #rates = new Map<number, KvRate>();

  constructor(options: KvFetchOptions) {
    this.#options = options;
  }

  /** Resolves within `fetchMs`; whatever fails, what is missing is computed. */
  async bring(text: KvText, rank: number, options: BringOptions): Promise<void> {
    const { peers, log } = this.#options;
    if (rank === peers.self.rank || !peers.usable(rank) || text.tokens.length <= leastTokens || this.#open >= fetchesMost) return;
    this.#open += 1;
    try {
      await this.#bring(text, rank, options);
    } catch (err) {
      log.warn({ err, rank }, "keys and values are computed anew");
    } finally {
      this.#open -= 1;
    }
  }

  /** What another request is bringing is waited for. */
  async #bring(text: KvText, rank: number, { signal, must = false }: BringOptions): Promise<void> {
    const { kv, metrics } = this.#options;
    const startedAt = performance.now();
    const leftOf = (ms: number): number => Math.max(0, Math.ceil(startedAt + ms - performance.now()));
    const looking = aborted(AbortSignal.any([signal, AbortSignal.timeout(fetchMs.most)]));
    for (;;) {
      const look = await Promise.race([kv.look(text), looking]);
      const [first, last] = [look?.blocks[0], look?.blocks.at(-1)];
      if (!look || !first || !last || last.to - look.here < leastTokens) return;
      const tokens = last.to - look.here;
      const { least, unknown, most } = fetchMs;
      const ms = look.tokenMs === undefined ? unknown : Math.min(most, tokens * look.tokenMs);
      const leftMs = leftOf(Math.max(must ? unknown : least, ms));
      const late = AbortSignal.timeout(leftMs);
      const other = this.#coming.get(first.id);
      if (other === undefined || leftMs === 0) {
        if (leftMs > 0 && (must || this.#rateOf(rank).pays(look)))
          return this.#from(rank, { text: text.tokens, look, tokens, signal, late });
        return metrics.add("enodia_kv_fetches_total", 1, { result: "skipped" });
      }
      const ended = AbortSignal.any([signal, late]);
      await Promise.race([other, aborted(ended)]);
      if (ended.aborted) return;
    }
  }

  async #from(rank: number, { text, look, tokens, signal, late }: Wanted): Promise<void> {
    const { peers, metrics, log } = this.#options;
    const reads = peers.clients(rank)?.reads;
    if (reads === undefined) return;
    const gone = new AbortController();
    const unwatch = peers.onChange(() => void (peers.usable(rank) || gone.abort()));
    const fetching = { rank, reads, text, look, late, signal: AbortSignal.any([signal, gone.signal, late]) };
    const fetched = { blocks: 0, bytes: 0 };
    const startedAt = performance.now();
    const fetch = this.#queued(() => this.#fetch(fetching, fetched), fetching.signal).finally(unwatch);
    for (const { id } of look.blocks) this.#coming.set(id, fetch);
    const fault = await fetch;
    for (const { id } of look.blocks) if (this.#coming.get(id) === fetch) this.#coming.delete(id);
    const seconds = (performance.now() - startedAt) / 1000;
    const result = resultOf(fetched.blocks, look.blocks.length, fault);
    log.debug({ rank, tokens, ...fetched, result, reason: fault?.message }, "keys and values of another rank");
    metrics.add("enodia_kv_fetches_total", 1, { result });
    metrics.add("enodia_kv_fetch_blocks_total", fetched.blocks, { result: "fetched" });
    metrics.add("enodia_kv_fetch_blocks_total", look.blocks.length - fetched.blocks, { result: "missing" });
    metrics.add("enodia_kv_fetch_bytes_total", fetched.bytes);
    metrics.observe("enodia_kv_fetch_duration_seconds", seconds);
  }

  #rateOf(rank: number): KvRate {
    const rate = this.#rates.get(rank) ?? new KvRate();
    this.#rates.set(rank, rate);
    return rate;
  }

  async #queued(work: () => Promise<void>, signal: AbortSignal): Promise<AppError | undefined> {
    try {
      const ended = aborted(signal);
      while (this.#running.size >= fetchesAtOnce && !signal.aborted) await Promise.race([...this.#running, ended]);
      signal.throwIfAborted();
      const run = work();
      const settled = run.then(nothing, nothing).finally(() => this.#running.delete(settled));
      this.#running.add(settled);
      await run;
      return undefined;
    } catch (caught) {
      return AppError.from(caught, "fetching keys and values");
    }
  }

  async #fetch(fetching: Fetching, fetched: { blocks: number; bytes: number }): Promise<void> {
    const end = this.#options.pace.begin(rateMost);
    const startedAt = performance.now();
    try {
      for (let before = -1; before < fetched.blocks; ) {
        before = fetched.blocks;
        await this.#read(fetching, fetched);
      }
    } finally {
      end();
      const ms = performance.now() - startedAt;
      const isSlow = fetching.late.aborted && ms >= fetchMs.least;
      if (fetched.bytes >= measuredBytes || isSlow) this.#rateOf(fetching.rank).measured(fetched.bytes, ms);
    }
  }

  /** One read; a source that answers as many as it may is asked again. */
  async #read({ reads, text, look, signal }: Fetching, fetched: { blocks: number; bytes: number }): Promise<void> {
    const { kv } = this.#options;
    const blocks = look.blocks.slice(fetched.blocks, fetched.blocks + kvBlocksMax);
    const [first, last] = [blocks[0], blocks.at(-1)];
    if (first === undefined || last === undefined) return;
    const bytesOf = ({ from, to }: KvBlock): number => (to - from) * look.tokenBytes;
    const part = newPart(blocks.reduce((sum, block) => sum + bytesOf(block) + digestBytes, 0));
    const unfit = (why: string) => new AppError(`keys and values of another rank: ${why}`, { code: "CorruptKv" });
    let [at, filled, data] = [0, 0, new Uint8Array(bytesOf(first))];
    const writing: Promise<void>[] = [];
    const store = async (chunk: Uint8Array): Promise<void> => {
      const block = blocks[at] as KvBlock;
      if (filled < data.byteLength) {
        if (filled + chunk.byteLength > data.byteLength) throw unfit("chunks are not those of the block");
        data.set(chunk, filled);
        filled += chunk.byteLength;
        return;
      }
      if (!part.hash.copy().digest().equals(chunk)) throw unfit("their SHA-256 is another");
      const bytes = data.byteLength;
      const written = kv.write({ block, tokens: text.slice(block.from, block.to), data }).then((taken) => {
        if (!taken) throw new AppError("there is no room for them", { code: "Busy", retry: "never" });
        fetched.blocks += 1;
        fetched.bytes += bytes;
      });
      written.catch(nothing); // awaited below
      writing.push(written);
      at += 1;
      [filled, data] = [0, new Uint8Array(at < blocks.length ? bytesOf(blocks[at] as KvBlock) : 0)];
      if (writing.length * bytesOf(first) >= kvAheadBytes) await writing.shift();
    };
    const ids = Buffer.from(blocks.map(({ id }) => id).join(""), "hex");
    const value = { ids, from: first.from, to: last.to, maxBytesPerSecond: BigInt(rateMost) };
    for (;;) {
      signal.throwIfAborted();
      const read = reads.read({ case: "kv", value });
      const abort = () => read.cancel(new AppError("their time is over", { code: "Cancelled" }));
      signal.addEventListener("abort", abort, { once: true });
      try {
        await receive(read, part, { stallMs: readLimits.kvMs, unfit: () => unfit("more came than was asked for"), store });
        await Promise.all(writing);
        return;
      } catch (caught) {
        await Promise.allSettled(writing);
        // A source that answers as many reads as it may is asked again.
        if (part.received > 0 || AppError.from(caught).code !== "Busy") throw caught;
        await sleep(busyPauseMs, undefined, { signal });
      } finally {
        signal.removeEventListener("abort", abort);
      }
    }
  }
}

function resultOf(blocks: number, of: number, fault: AppError | undefined): "ok" | "part" | "none" | "error" {
  if (blocks === 0) return fault === undefined ? "none" : "error";
  return blocks === of ? "ok" : "part";
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

function nothing(): void {}
