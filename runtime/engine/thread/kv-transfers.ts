// Blocks of keys and values for other ranks, and from them: a few at a time, while no step that decodes runs (../DECISIONS.md 15).
import { AppError } from "../../../crds/common.ts";
import type { KvCache } from "../../compute/backend.ts";
import type { KvBlock, KvLook, KvText, WrittenBlock } from "../api.ts";
import type { SlotChange, SlotLedger } from "../schedule/kv-ledger.ts";
import type { StepBoundary } from "./mailbox.ts";
import { saltedStart } from "./prefix-ids.ts";

interface Parts {
  readonly ledger: SlotLedger;
  readonly kv: KvCache;
  readonly boundary: Pick<StepBoundary, "wake">;
  readonly change: (change: SlotChange) => Promise<void>;
  /** Milliseconds of a prompt's token; undefined until prompts were computed. */
  readonly tokenMs: () => number | undefined;
}

export class KvTransfers {
  readonly #parts: Parts;
  readonly #waiting: (() => Promise<void>)[] = [];

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  get pending(): number {
    return this.#waiting.length;
  }

  look({ tokens, cacheSalt }: KvText): KvLook {
    const { ledger, kv, tokenMs } = this.#parts;
    return { ...ledger.blocksBehind({ tokens, start: saltedStart(cacheSalt) }), tokenBytes: kv.positionBytes, tokenMs: tokenMs() };
  }

  read(block: Omit<KvBlock, "before">): Promise<Uint8Array | undefined> {
    const { ledger, kv } = this.#parts;
    return this.#later(async () => {
      for (let changes = ledger.takeChanges(); changes.length > 0; changes = ledger.takeChanges()) await this.#carryOut(changes);
      const slot = ledger.slotWith(block);
      return slot && kv.readRows(slot.index, block.from, block.to - block.from);
    });
  }

  /** False where there is no room for it, or what comes before is gone. */
  write({ block, tokens, data }: WrittenBlock): Promise<boolean> {
    const { ledger, kv } = this.#parts;
    const count = block.to - block.from;
    if (tokens.length !== count || data.byteLength !== count * kv.positionBytes)
      throw new AppError(`a block of ${count} tokens with ${data.byteLength} bytes`, { code: "InvalidArgument" });
    return this.#later(async () => {
      for (let slot = ledger.slotFor(block); slot !== undefined; slot = ledger.slotFor(block)) {
        if (ledger.slotWith(block) !== undefined) return true; // another request of the same text brought it
        const changes = ledger.takeChanges();
        if (changes.length > 0) {
          await this.#carryOut(changes);
          continue; // requests may have left meanwhile
        }
        kv.writeRows(slot.index, block.from, data);
        ledger.wrote(slot, tokens);
        return true;
      }
      return false;
    });
  }

  /** Moves a block; undefined where none waits. It throws where the ledger no longer says what the memory holds (../DECISIONS.md 7). */
  next(): Promise<void> | undefined {
    return this.#waiting.shift()?.();
  }

  /** At least one block, and more while that takes less than so many milliseconds. */
  async moveFor(ms: number): Promise<void> {
    const until = performance.now() + ms;
    do await this.next();
    while (this.pending > 0 && performance.now() < until);
  }

  /** Slots may move again while it is awaited: a slot is used without an await behind the last `takeChanges`. */
  async #carryOut(changes: readonly SlotChange[]): Promise<void> {
    for (const each of changes) await this.#parts.change(each);
  }

  #later<T>(move: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const moved = async (): Promise<void> => {
        try {
          resolve(await move());
        } catch (caught) {
          reject(caught);
          throw caught;
        }
      };
      this.#waiting.push(moved);
      this.#parts.boundary.wake();
    });
  }
}
