// Moves weights that have been left alone for a while into large pages, one after another: each takes half a millisecond.
import type { Pointer } from "./functions.ts";
import type { GgmlLibrary } from "./library.ts";

export const largePageBytes = 2 * 2 ** 20;
/** Milliseconds after the last write. */
export const settledMs = 2_000;
/** Milliseconds after a page that was joined, and after one that the kernel refused; none is tried again before it is written again. */
const pauseMs = { joined: 1, refused: 500 } as const;
/** A pause is so many times as long as the join before it, in memory that the kernel has to move first. */
const restsFor = 10;

interface Machine {
  readonly pageBytes: number | undefined;
  readonly ggml: Pick<GgmlLibrary, "singlePages" | "largePages" | "joinPages" | "splitPages">;
}

interface Waiting {
  readonly since: number;
  readonly isFull: (at: Pointer) => boolean;
}

export class LargePages {
  readonly #machine: Machine;
  readonly #now: () => number;
  /** Pages by address; the one that settled first comes first. */
  readonly #waiting = new Map<Pointer, Waiting>();
  #timer: NodeJS.Timeout | undefined;

  constructor(machine: Machine, now = () => performance.now()) {
    this.#machine = machine;
    this.#now = now;
  }

  /** A range was written; `isFull` tells later whether all of a large page is in use. */
  settle(at: Pointer, bytes: number, isFull: (at: Pointer) => boolean): void {
    if (this.#machine.pageBytes === undefined) return;
    const large = BigInt(largePageBytes);
    const since = this.#now();
    for (let page = at - (at % large); page < at + BigInt(bytes); page += large) {
      this.#waiting.delete(page);
      this.#waiting.set(page, { since, isFull });
    }
    this.#timer ??= setTimeout(() => this.#next(), settledMs).unref();
  }

  /** A large page of which a part is dropped takes all its memory until the machine is short of it, unless it is split. */
  leave(at: Pointer, bytes: number): void {
    if (this.#machine.pageBytes !== undefined) this.#machine.ggml.splitPages(at, bytes);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#waiting.clear();
  }

  #next(): void {
    this.#timer = undefined;
    let pause: number = pauseMs.joined;
    for (const [page, { since, isFull }] of this.#waiting) {
      const left = since + settledMs - this.#now();
      if (left <= 0) {
        this.#waiting.delete(page);
        if (!isFull(page)) continue;
        const startedAt = this.#now();
        const joined = this.#join(page);
        pause = Math.max(joined ? pauseMs.joined : pauseMs.refused, restsFor * (this.#now() - startedAt));
      } else pause = left;
      this.#timer = setTimeout(() => this.#next(), pause).unref();
      return;
    }
  }

  /** Afterwards what is dropped from the page comes back in small ones. */
  #join(page: Pointer): boolean {
    const { ggml } = this.#machine;
    ggml.largePages(page, largePageBytes);
    const joined = ggml.joinPages(page, largePageBytes);
    ggml.singlePages(page, largePageBytes);
    return joined;
  }
}
