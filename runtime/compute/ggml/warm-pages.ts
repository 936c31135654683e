// Pages of experts that went, kept for a moment for those that come: a fresh page is found, zeroed and entered at its first touch, which
// takes several times as long as a copy into it, and an expert has hundreds. A page that is kept is entered in another place instead, and
// written over there. What nobody takes goes back to the machine.
import type { Pointer } from "./functions.ts";
import type { GgmlLibrary } from "./library.ts";

/** Bytes that are kept, at most: the whole of most experts, a part of the largest. */
const keptBytesMax = 32 * 2 ** 20;
/** Milliseconds for which they are: what comes in the place of an expert that went may take so long to be fetched. */
export const keptMs = 5_000;
/** Places that pages were moved to, at most: the kernel describes each apart from what is around it, and has 65,530 such for a process. */
const placesMax = 4_096;

/** The device, as far as its pages are moved. */
interface Machine {
  /** Undefined where memory has no pages that can be given back. */
  readonly pageBytes: number | undefined;
  readonly ggml: Pick<GgmlLibrary, "discard" | "movePages" | "populate">;
}

/** Whole pages, by number, the end not included. */
interface Run {
  readonly from: number;
  readonly to: number;
}

export class WarmPages {
  readonly #machine: Machine;
  /** Apart from each other, those first that were kept first. */
  #kept: readonly Run[] = [];
  readonly #places = new Set<number>();
  #movable = true;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  get keptBytes(): number {
    return pagesOf(this.#kept) * (this.#machine.pageBytes ?? 0);
  }

  /** The whole pages within a range are nobody's from now on. What was in them is lost. */
  keep(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined || this.#closed) return;
    const run = inside(at, bytes, pageBytes);
    if (run.to <= run.from) return;
    const room = Math.floor(keptBytesMax / pageBytes) - pagesOf(without(this.#kept, run));
    const to = Math.min(run.to, run.from + Math.max(0, room));
    this.#discard({ from: to, to: run.to });
    this.#kept = [...without(this.#kept, run), { from: run.from, to }].filter(notEmpty);
    this.#timer ??= setTimeout(() => this.clear(), keptMs).unref();
  }

  /** All of a range is to be written now: as many of its pages as can be are warm. */
  claim(at: Pointer, bytes: number): void {
    const { pageBytes, ggml } = this.#machine;
    if (pageBytes === undefined) return;
    const own = inside(at, bytes, pageBytes);
    const here = this.#kept.flatMap((run) => common(run, own));
    this.forget(at, bytes);
    for (const gap of here.reduce<readonly Run[]>(without, [own])) {
      const left = this.#fill(gap);
      if (notEmpty(left)) ggml.populate(this.#address(left.from), (left.to - left.from) * pageBytes);
    }
  }

  /** None of the pages that a range touches is kept any more: they have other use, or are freed. */
  forget(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined || this.#kept.length === 0) return;
    const page = BigInt(pageBytes);
    this.#kept = without(this.#kept, { from: Number(at / page), to: Number((at + BigInt(bytes) + page - 1n) / page) });
  }

  /** Gives all of them back to the machine. */
  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const run of this.#kept) this.#discard(run);
    this.#kept = [];
  }

  /** Nothing is kept from now on: the memory is freed, and its addresses may be somebody else's. */
  close(): void {
    this.#closed = true;
    this.clear();
  }

  /** Moves kept pages into the first part of a run, and answers the rest of it. */
  #fill(run: Run): Run {
    const { ggml } = this.#machine;
    let { from } = run;
    while (from < run.to && this.#movable && (this.#places.has(from) || this.#places.size < placesMax)) {
      const newest = this.#kept.at(-1);
      if (newest === undefined) break;
      const pages = Math.min(run.to - from, newest.to - newest.from);
      this.#movable = ggml.movePages(this.#address(newest.to - pages), this.#address(from), pages * (this.#machine.pageBytes ?? 0));
      if (!this.#movable) break;
      this.#places.add(from);
      from += pages;
      this.#kept = [...this.#kept.slice(0, -1), { from: newest.from, to: newest.to - pages }].filter(notEmpty);
    }
    return { from, to: run.to };
  }

  #discard({ from, to }: Run): void {
    if (to > from) this.#machine.ggml.discard(this.#address(from), (to - from) * (this.#machine.pageBytes ?? 0));
  }

  #address(page: number): Pointer {
    return BigInt(page) * BigInt(this.#machine.pageBytes ?? 0);
  }
}

/** The whole pages within a range. */
function inside(at: Pointer, bytes: number, pageBytes: number): Run {
  const page = BigInt(pageBytes);
  return { from: Number((at + page - 1n) / page), to: Number((at + BigInt(bytes)) / page) };
}

const notEmpty = ({ from, to }: Run): boolean => to > from;
const pagesOf = (runs: readonly Run[]): number => runs.reduce((sum, { from, to }) => sum + to - from, 0);
const common = (a: Run, b: Run): readonly Run[] => [{ from: Math.max(a.from, b.from), to: Math.min(a.to, b.to) }].filter(notEmpty);

/** What is left of runs. */
const without = (runs: readonly Run[], { from, to }: Run): readonly Run[] =>
  runs
    .flatMap((run) => [
      { from: run.from, to: Math.min(run.to, from) },
      { from: Math.max(run.from, to), to: run.to },
    ])
    .filter(notEmpty);
