// Blocks of keys and values for other ranks, and from them: a few at a time, while no step that decodes runs (../DECISIONS.md 15).
import { AppError, movedKv } from "../../../crds/common.ts";
import type { KvCache } from "../../compute/backend.ts";
import { saltedStart } from "../../net/prefix-ids.ts";
import type { HeldBlock, KvLook, KvText, WrittenBlock } from "../api.ts";
import type { SlotChange, SlotLedger } from "../schedule/kv-ledger.ts";
import type { KvOffload } from "./kv-offload.ts";
import type { StepBoundary } from "./mailbox.ts";

interface Parts {
  readonly ledger: SlotLedger;
  readonly kv: KvCache;
  readonly boundary: Pick<StepBoundary, "wake">;
  readonly change: (change: SlotChange) => Promise<void>;
  /** Milliseconds of a prompt's token; undefined until prompts were computed. */
  readonly tokenMs: () => number | undefined;
  /** Host memory, and whether requests run beside which blocks are copied into it. */
  readonly offload?: KvOffload | undefined;
  readonly isBusy?: () => boolean;
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
    const { ledger, kv, tokenMs, offload } = this.#parts;
    const { here, blocks } = ledger.blocksBehind({ tokens, start: saltedStart(cacheSalt) });
    return { here, blocks: blocks.slice(0, offload?.places), tokenBytes: kv.positionBytes, tokenMs: tokenMs() };
  }

  read(block: HeldBlock): Promise<Uint8Array | undefined> {
    const { ledger, offload } = this.#parts;
    return this.#later(async () => {
      const held = offload?.read(block);
      return held ?? this.#settled(() => this.#rows(block, ledger.slotWith(block)));
    });
  }

  /** False where there is no room for it, or what comes before is gone. */
  write({ block, tokens, data }: WrittenBlock): Promise<boolean> {
    const { ledger, kv, offload } = this.#parts;
    const count = block.to - block.from;
    if (tokens.length !== count || data.byteLength !== count * kv.positionBytes)
      throw new AppError(`a block of ${count} tokens with ${data.byteLength} bytes`, { code: "InvalidArgument" });
    return this.#later(async () => {
      if (offload !== undefined && block.from % movedKv.tokens === 0) {
        offload.keep({ id: block.id, from: block.from, to: block.to }, data);
        return true;
      }
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
    const { offload, isBusy = () => false } = this.#parts;
    const move = this.#waiting.shift();
    const block = move ? undefined : offload?.next(isBusy());
    return block ? this.#copyOut(block) : move?.();
  }

  #copyOut(block: HeldBlock): Promise<void> {
    const { ledger, offload } = this.#parts;
    return this.#settled(() => offload?.copy(block, () => this.#rows(block, ledger.holderOf(block))));
  }

  #rows({ from, to }: HeldBlock, slot: { readonly index: number } | undefined): Uint8Array | undefined {
    return slot && this.#parts.kv.readRows(slot.index, from, to - from);
  }

  async #settled<T>(use: () => T): Promise<T> {
    const { ledger } = this.#parts;
    for (let changes = ledger.takeChanges(); changes.length > 0; changes = ledger.takeChanges()) await this.#carryOut(changes);
    return use();
  }

  /** As `next`, and more of what others wait for while that takes less than so many milliseconds. */
  moveFor(ms: number): Promise<void> | undefined {
    const until = performance.now() + ms;
    const first = this.next();
    const more = async (): Promise<void> => {
      while (this.pending > 0 && performance.now() < until) await this.next();
    };
    return first?.then(more);
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
