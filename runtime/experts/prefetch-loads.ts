// Loads experts before rows choose them, while no rows wait for others, and says what experts in memory are worth.
import type { prefetchResults } from "../../crds/names.ts";
import type { ExpectedExperts } from "../engine/engine.ts";
import type { Eviction } from "./cache/eviction.ts";
import type { LoadRequest, Materializer } from "./memory/materializer.ts";
import type { ResidentExpert } from "./memory/resident-set.ts";

/** Loads at once, and their stored bytes; one is always taken. */
const loadsMax = 2;
const loadBytesMax = 64 * 2 ** 20;
/** Milliseconds that a load may take. */
const loadMsMax = 30_000;

interface PrefetchLoadsOptions {
  readonly materializer: Pick<Materializer, "ensure" | "storedBytes">;
  readonly isResident: (expert: ResidentExpert) => boolean;
  /** Experts of a layer of the grid. */
  readonly experts: number;
  readonly eviction: Eviction;
  readonly sourcesOf: (layer: number, expert: number) => readonly number[];
  /** The plan has it here. */
  readonly wanted: (layer: number, expert: number) => boolean;
  /** It is in memory. */
  readonly loaded: (expert: ResidentExpert) => void;
  /** All loads of this rank; one stays for those that rows wait for. */
  readonly atOnce: number;
}

/** What became of loads since the start. */
export type Prefetched = Readonly<Record<(typeof prefetchResults)[number] | "bytes", number>>;

interface Running {
  readonly bytes: number;
  /** Rows wait for it. */
  late: boolean;
}

export class PrefetchLoads {
  readonly #options: PrefetchLoadsOptions;
  readonly #counts = { useful: 0, late: 0, wasted: 0, bytes: 0 };
  readonly #running = new Map<number, Running>();
  /** Cells that were loaded here and not used since. */
  readonly #unused = new Set<number>();
  #chances: ReadonlyMap<number, number> = new Map();
  #waiting: number[] = [];
  #demands = 0;
  readonly #closed = new AbortController();

  constructor(options: PrefetchLoadsOptions) {
    this.#options = options;
  }

  get counts(): Prefetched {
    return { ...this.#counts };
  }

  /** Replaces what was expected before and has not begun. */
  expect({ cells, chances }: ExpectedExperts): void {
    this.#chances = new Map([...cells].map((cell, i) => [cell, chances[i] as number]));
    this.#waiting = [...cells];
    this.#start();
  }

  /** Experts that computed, oldest first. */
  used(cells: Int32Array): void {
    for (const cell of cells) {
      this.#options.eviction.use(cell);
      if (this.#unused.delete(cell)) this.#counts.useful += 1;
    }
  }

  /** Rows wait for so many loads now: none begins here meanwhile. */
  demands(count: number): void {
    this.#demands = count;
    this.#start();
  }

  /** Rows wait for an expert. Its stored bytes if it is on its way from here and nobody has waited for it yet, else 0. */
  joined(expert: ResidentExpert): number {
    const running = this.#running.get(this.#cellOf(expert));
    if (running === undefined || running.late) return 0;
    running.late = true;
    this.#counts.late += 1;
    return running.bytes;
  }

  /** What runs ends, and nothing begins. */
  close(): void {
    this.#closed.abort();
  }

  gone(expert: ResidentExpert): void {
    if (this.#unused.delete(this.#cellOf(expert))) this.#counts.wasted += 1;
  }

  /** What its uses so far say, or what is expected. */
  worth(expert: ResidentExpert): number {
    const cell = this.#cellOf(expert);
    return this.#options.eviction.worth(cell, this.#chances.get(cell));
  }

  #start(): void {
    for (let cell = this.#next(); cell !== undefined; cell = this.#next()) void this.#load(cell);
  }

  #next(): number | undefined {
    const { atOnce, isResident, materializer, wanted } = this.#options;
    const most = Math.max(1, Math.min(loadsMax, atOnce - 1));
    for (;;) {
      const [cell] = this.#waiting;
      if (cell === undefined || this.#closed.signal.aborted || this.#demands > 0 || this.#running.size >= most) return undefined;
      const expert = this.#expertOf(cell);
      const isAbsent = wanted(expert.layer, expert.expert) && !isResident(expert) && !this.#running.has(cell);
      if (isAbsent && this.#running.size > 0 && this.#runningBytes() + materializer.storedBytes(expert) > loadBytesMax) return undefined;
      this.#waiting.shift();
      if (isAbsent) return cell;
    }
  }

  async #load(cell: number): Promise<void> {
    const { isResident, loaded, materializer, sourcesOf } = this.#options;
    const expert = this.#expertOf(cell);
    const running = { bytes: materializer.storedBytes(expert), late: false };
    this.#running.set(cell, running);
    const request: LoadRequest = {
      ...{ ...expert, kind: "staged", bytesPerSecond: 0, below: this.worth(expert) },
      sources: sourcesOf(expert.layer, expert.expert),
      signal: AbortSignal.any([AbortSignal.timeout(loadMsMax), this.#closed.signal]),
    };
    try {
      const bytes = await materializer.ensure(request);
      if (!running.late) this.#counts.bytes += bytes; // late ones are misses, which count theirs
      if (bytes > 0 && isResident(expert)) loaded(expert);
      if (bytes > 0 && !running.late) this.#arrived(cell, isResident(expert));
    } catch {
      // Whoever needs it loads it again, and tells what is wrong.
    } finally {
      this.#running.delete(cell);
      this.#start();
    }
  }

  #arrived(cell: number, isHere: boolean): void {
    if (isHere) this.#unused.add(cell);
    else this.#counts.wasted += 1;
  }

  #runningBytes(): number {
    return [...this.#running.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  #cellOf({ layer, expert }: ResidentExpert): number {
    return layer * this.#options.experts + expert;
  }
  #expertOf(cell: number): ResidentExpert {
    return { layer: Math.floor(cell / this.#options.experts), expert: cell % this.#options.experts };
  }
}
