// Host memory as the tier behind KV memory: blocks that may be evicted are copied into it, one at a time (../DECISIONS.md 17).
import { AppError, movedKv } from "../../../crds/common.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import { evictions } from "../../experts/cache/index.ts";
import { Places } from "../../experts/cache/places.ts";
import type { HeldBlock, KvTierStats } from "../api.ts";
import type { KvTier } from "../schedule/kv-ledger.ts";

/** Blocks that wait to be copied; of more the oldest are dropped. */
const waitingMax = 4_096;
/** While requests run copies take this part of the time. */
const copyShare = 1 / 16;

interface OffloadOptions {
  readonly bytes: number;
  readonly positionBytes: number;
  readonly now: () => number;
  readonly onKept: (block: HeldBlock) => void;
}

export class KvOffload implements KvTier {
  readonly #options: OffloadOptions;
  readonly #held: Places<Uint8Array>;
  readonly #waiting = new Map<string, HeldBlock>();
  readonly #counts = { stored: 0, found: 0, dropped: 0, heldBytes: 0 };
  readonly #out = { bytes: 0, seconds: 0 };
  readonly #back = { bytes: 0, seconds: 0 };
  #dueAt = Number.NEGATIVE_INFINITY;

  /** Throws AppError `KvOffloadTooSmall`. */
  constructor(options: OffloadOptions) {
    const { bytes, positionBytes } = options;
    const blockBytes = movedKv.tokens * positionBytes;
    if (bytes < blockBytes) {
      const message = `spec.runtime.kvOffload.memory ${formatBytes(bytes)} holds no block of ${formatBytes(blockBytes, "up")}: raise it, or leave kvOffload out`;
      throw new AppError(message, { code: "KvOffloadTooSmall", operation: "opening a model" });
    }
    this.#options = options;
    this.#held = new Places(Math.floor(bytes / blockBytes), evictions.lru);
  }

  get places(): number {
    return this.#held.count;
  }

  get stats(): Omit<KvTierStats, "swappedTokens"> {
    return { ...this.#counts, out: { ...this.#out }, back: { ...this.#back } };
  }

  has(id: string): boolean {
    return this.#held.peek(id) !== undefined;
  }

  take(id: string): Uint8Array | undefined {
    const data = this.#held.take(id);
    if (data !== undefined) this.#counts.found += 1;
    return data;
  }

  /** A copy; undefined also for another range than the block's. */
  read({ id, from, to }: HeldBlock): Uint8Array | undefined {
    const data = this.#held.take(id);
    return data?.byteLength === (to - from) * this.#options.positionBytes ? data.slice() : undefined;
  }

  /** A text's last blocks are evicted first, so they are copied first. */
  left(blocks: readonly HeldBlock[]): void {
    for (const block of blocks.toReversed()) if (!this.has(block.id)) this.#waiting.set(block.id, block);
    for (const id of this.#waiting.keys()) {
      if (this.#waiting.size <= waitingMax) break;
      this.#waiting.delete(id);
      this.#counts.dropped += 1;
    }
  }

  /** The block to copy now. */
  next(isBusy: boolean): HeldBlock | undefined {
    if (isBusy && this.#options.now() < this.#dueAt) return undefined;
    for (const [id, block] of this.#waiting) {
      this.#waiting.delete(id);
      if (!this.has(id)) return block;
    }
    return undefined;
  }

  /** What `rows` gives for the block; undefined where it was evicted meanwhile. */
  copy(block: HeldBlock, rows: () => Uint8Array | undefined): void {
    const startedAt = this.#options.now();
    const data = rows();
    const ms = this.#options.now() - startedAt;
    this.#dueAt = startedAt + ms / copyShare;
    if (data === undefined) {
      this.#counts.dropped += 1;
      return;
    }
    this.#out.bytes += data.byteLength;
    this.#out.seconds += ms / 1000;
    this.keep(block, data);
  }

  keep(block: HeldBlock, data: Uint8Array): void {
    const before = this.#held.peek(block.id)?.byteLength ?? 0;
    const left = this.#held.put(block.id, data)?.value.byteLength ?? 0;
    this.#counts.stored += 1;
    this.#counts.heldBytes += data.byteLength - before - left;
    this.#options.onKept(block);
  }

  /** `write` puts a block's rows back into KV memory. */
  restore(data: Uint8Array, write: () => void): void {
    const startedAt = this.#options.now();
    write();
    this.#back.bytes += data.byteLength;
    this.#back.seconds += (this.#options.now() - startedAt) / 1000;
  }
}
