// Holds the pages of removed experts for a moment, since a fresh page costs several times as much as a copy into it.
import type { Pointer } from "./functions.ts";
import type { GgmlLibrary } from "./library.ts";

const keptBytesMax = 32 * 2 ** 20;
/** Milliseconds: fetching a replacement may take that long. */
export const keptMs = 5_000;
/** Moved pages are mappings of their own, of which a process has 65,530. */
export const edgesMax = 16_384;
/** Smaller moves cost more than fresh pages. */
const movedBytesLeast = 32 * 2 ** 10;

interface Machine {
  readonly pageBytes: number | undefined;
  readonly ggml: Pick<GgmlLibrary, "discard" | "movePages" | "renew">;
}

/** Whole pages by number, `to` excluded. */
interface Run {
  readonly from: number;
  readonly to: number;
}

export class WarmPages {
  readonly #machine: Machine;
  /** Disjoint, the oldest first. */
  #kept: readonly Run[] = [];
  /** Pages before which a mapping may end: older kernels move pages of one mapping only. */
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

  /** Prepares a range for writing with held pages. */
  claim(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined) return;
    const own = inside(at, bytes, pageBytes);
    const here = this.#kept.flatMap((run) => common(run, own));
    this.forget(at, bytes);
    for (const gap of here.reduce<readonly Run[]>(without, [own])) {
      const left = this.#fill(gap);
      if (notEmpty(left)) this.#renew(left);
    }
  }

  forget(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined || this.#kept.length === 0) return;
    const page = BigInt(pageBytes);
    this.#kept = without(this.#kept, { from: Number(at / page), to: Number((at + BigInt(bytes) + page - 1n) / page) });
  }

  /** Drops the range's pages and makes its mapping whole, before it is freed. */
  release(at: Pointer, bytes: number): void {
    const { pageBytes } = this.#machine;
    if (pageBytes === undefined) return;
    this.forget(at, bytes);
    this.#renew(inside(at, bytes, pageBytes));
  }

  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const run of this.#kept) this.#discard(run);
    this.#kept = [];
  }

  close(): void {
    this.#closed = true;
    this.clear();
  }

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

  #lastArea({ from, to }: Run): Run {
    let first = to - 1;
    while (first > from && !this.#edges.has(first)) first -= 1;
    return { from: first, to };
  }

  /** Makes a run of several mappings one again, with fresh pages. */
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

function inside(at: Pointer, bytes: number, pageBytes: number): Run {
  const page = BigInt(pageBytes);
  return { from: Number((at + page - 1n) / page), to: Number((at + BigInt(bytes)) / page) };
}

const notEmpty = ({ from, to }: Run): boolean => to > from;
const pagesOf = (runs: readonly Run[]): number => runs.reduce((sum, { from, to }) => sum + to - from, 0);
const common = (a: Run, b: Run): readonly Run[] => [{ from: Math.max(a.from, b.from), to: Math.min(a.to, b.to) }].filter(notEmpty);

const without = (runs: readonly Run[], { from, to }: Run): readonly Run[] =>
  runs
    .flatMap((run) => [
      { from: run.from, to: Math.min(run.to, from) },
      { from: Math.max(run.from, to), to: run.to },
    ])
    .filter(notEmpty);
