// What this rank has computed of prompts, as each gateway is told it with heartbeats: a snapshot first, then what changed.
import type { ChangedPrefixes } from "../engine/engine.ts";
import { packIds } from "../net/prefix-ids.ts";

/** Told of blocks: 64 KiB, of 262,144 tokens; those that came first, since beginnings that many prompts share are the oldest. */
export const blocksReportedMost = 4_096;
/** A gateway that has so many more to hear gets a snapshot. */
const changesMost = blocksReportedMost / 2;

interface Told {
  readonly number: number;
  /** Set in a snapshot. */
  readonly root?: Uint8Array;
  readonly gained: Uint8Array;
  readonly lost: Uint8Array;
}

interface Reader {
  number: number;
  /** Undefined: all, as a snapshot. */
  changed: Set<string> | undefined;
}

export class PrefixLog {
  readonly #root: Uint8Array;
  readonly #blocks = new Set<string>();
  readonly #readers = new Set<Reader>();

  constructor(root: Uint8Array) {
    this.#root = root;
  }

  add({ gained, lost }: ChangedPrefixes): void {
    const ids = lost.filter((id) => this.#blocks.delete(id));
    for (const id of gained) {
      if (this.#blocks.size >= blocksReportedMost) break;
      this.#blocks.add(id);
      ids.push(id);
    }
    for (const reader of this.#readers) {
      for (const id of ids) reader.changed?.add(id);
      if ((reader.changed?.size ?? 0) > changesMost) reader.changed = undefined;
    }
  }

  /** `next` gives what a gateway has to hear now; undefined: nothing. */
  open(): { next(): Told | undefined; close(): void } {
    const reader: Reader = { number: 0, changed: undefined };
    this.#readers.add(reader);
    return { next: () => this.#next(reader), close: () => void this.#readers.delete(reader) };
  }

  #next(reader: Reader): Told | undefined {
    const { changed } = reader;
    if (changed?.size === 0) return undefined;
    reader.changed = new Set();
    const number = ++reader.number;
    if (changed === undefined) return { number, root: this.#root, gained: packIds([...this.#blocks]), lost: packIds([]) };
    const ids = [...changed];
    const has = (id: string): boolean => this.#blocks.has(id);
    return { number, gained: packIds(ids.filter(has)), lost: packIds(ids.filter((id) => !has(id))) };
  }
}
