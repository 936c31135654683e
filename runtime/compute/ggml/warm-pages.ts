// Pages of experts that went, kept for a moment for those that come: a fresh page is found, zeroed and entered at its first touch, which
// takes several times as long as a copy into it, and an expert has hundreds.
import type { Pointer } from "./functions.ts";
import type { GgmlLibrary } from "./library.ts";

/** Bytes that are kept, at most: the whole of most experts, a part of the largest. */
const keptBytesMax = 32 * 2 ** 20;
/** Milliseconds for which they are: what comes in the place of an expert that went may take so long to be fetched. */
export const keptMs = 5_000;
/** Edges of areas, at most: the kernel describes what was moved apart from what is around it, and has 65,530 areas for a process. */
export const edgesMax = 16_384;
/** Bytes that are moved at once, at least: pages for fewer are found sooner, and areas of few pages would become ever more. */
const movedBytesLeast = 32 * 2 ** 10;

/** The device, as far as its pages are moved. */
interface Machine {
  /** Undefined where memory has no pages that can be given back. */
  readonly pageBytes: number | undefined;
  readonly ggml: Pick<GgmlLibrary, "discard" | "movePages" | "populate" | "renew">;
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
  /** Pages before which an area of the kernel's may end: an older kernel moves pages of one area alone. */
  readonly #edges = new Set<number>();
  #movable = true;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  get keptBytes(): number {
    return pagesOf(this.#kept) * (this.#machine.pageBytes ?? 0);
  }

  /** The whole pages within a range are nobody's from now on. */
  keep(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined || this.#closed) return;
    const run = inside(at, bytes, pageBytes);
    if (run.to <= run.from) return;
    const allocate = Math.floor(keptBytesMax / pageBytes) - pagesOf(without(this.#kept, run));
    const to = Math.min(run.to, run.from + Math.max(0, allocate));
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
      if (!notEmpty(left)) continue;
      this.#renew(left);
      ggml.populate(this.#address(left.from), (left.to - left.from) * pageBytes);
    }
  }

  /** None of the pages that a range touches is kept any more: they have other use. */
  forget(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined || this.#kept.length === 0) return;
    const page = BigInt(pageBytes);
    this.#kept = without(this.#kept, { from: Number(at / page), to: Number((at + BigInt(bytes) + page - 1n) / page) });
  }

  /** A range is to be freed: none of its pages is kept, and it is an area as it was at first. */
  release(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined) return;
    this.forget(at, bytes);
    this.#renew(inside(at, bytes, pageBytes));
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
    const { ggml, pageBytes = 1 } = this.#machine;
    const least = Math.ceil(movedBytesLeast / pageBytes);
    let { from } = run;
    while (run.to - from >= least && this.#movable && this.#edges.size + 2 <= edgesMax) {
      const newest = this.#kept.at(-1);
      if (newest === undefined) break;
      const area = this.#lastArea(newest);
      const pages = Math.min(run.to - from, area.to - area.from);
      const moved = { from: area.to - pages, to: area.to };
      this.#kept = [...this.#kept.slice(0, -1), { from: newest.from, to: moved.from }].filter(notEmpty);
      if (pages < least) {
        this.#discard(moved);
        continue;
      }
      this.#movable = ggml.movePages(this.#address(moved.from), this.#address(from), pages * pageBytes);
      if (!this.#movable) this.#discard(moved);
      this.#isArea({ from, to: from + pages });
      if (this.#movable) from += pages;
    }
    return { from, to: run.to };
  }

  /** The last pages of a run that are of one area. */
  #lastArea({ from, to }: Run): Run {
    let first = to - 1;
    while (first > from && !this.#edges.has(first)) first -= 1;
    return { from: first, to };
  }

  /** A run of several areas is one again, of fresh pages. */
  #renew(run: Run): void {
    if (this.#edgesWithin(run).length === 0) return;
    this.#machine.ggml.renew(this.#address(run.from), (run.to - run.from) * (this.#machine.pageBytes ?? 0));
    this.#isArea(run);
  }

  #isArea(run: Run): void {
    for (const edge of this.#edgesWithin(run)) this.#edges.delete(edge);
    this.#edges.add(run.from).add(run.to);
  }

  #edgesWithin({ from, to }: Run): readonly number[] {
    const pages = to - from - 1;
    if (pages > this.#edges.size) return [...this.#edges].filter((edge) => edge > from && edge < to);
    return Array.from({ length: Math.max(0, pages) }, (_, i) => from + 1 + i).filter((page) => this.#edges.has(page));
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
