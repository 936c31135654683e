// The fast memory of a replay: units within a number of bytes, of which the one with the lowest worth leaves first.
import type { Eviction } from "../cache/eviction.ts";

export interface FastMemoryOptions {
  readonly capacityBytes: number;
  /** What is there at the start, as far as it fits. */
  readonly units: Iterable<number>;
  readonly bytesOf: (unit: number) => number;
  readonly eviction: Eviction;
}

export class FastMemory {
  fetchedBytes = 0;
  /** Bytes that were fetched ahead and left unused. */
  wastedBytes = 0;
  readonly #options: FastMemoryOptions;
  readonly #resident = new Set<number>();
  /** Fetched ahead, and not used since. */
  readonly #ahead = new Set<number>();
  #needed: ReadonlySet<number> = new Set();
  #guessed: ReadonlySet<number> = new Set();
  #bytes = 0;

  constructor(options: FastMemoryOptions) {
    this.#options = options;
    for (const unit of options.units) {
      if (this.#bytes + options.bytesOf(unit) > options.capacityBytes) continue;
      this.#bytes += options.bytesOf(unit);
      this.#resident.add(unit);
    }
  }

  has(unit: number): boolean {
    return this.#resident.has(unit);
  }

  /** A layer uses these now, and none of them leaves before `passed`. Returns those that are not there. */
  need(units: readonly number[]): number[] {
    this.#needed = new Set(units);
    for (const unit of units) {
      this.#options.eviction.use(unit);
      this.#ahead.delete(unit);
    }
    return units.filter((unit) => !this.#resident.has(unit));
  }

  /** Nothing that is fetched ahead displaces one of these. */
  guess(units: readonly number[]): void {
    this.#guessed = new Set(units);
  }

  passed(): void {
    this.#needed = new Set();
  }

  /** Makes room and takes it. What is fetched ahead may find none; what is needed displaces guesses, and has room at any rate. */
  admit(unit: number, ahead: boolean): boolean {
    if (this.#resident.has(unit)) return false;
    const { bytesOf, capacityBytes } = this.#options;
    const bytes = bytesOf(unit);
    while (this.#bytes + bytes > capacityBytes) {
      const victim = this.#victim(true) ?? (ahead ? undefined : this.#victim(false));
      if (victim === undefined) {
        if (ahead) return false;
        break;
      }
      this.#leave(victim);
    }
    this.#bytes += bytes;
    return true;
  }

  arrived(unit: number, ahead: boolean): void {
    this.#resident.add(unit);
    this.fetchedBytes += this.#options.bytesOf(unit);
    if (ahead && !this.#needed.has(unit)) this.#ahead.add(unit);
  }

  #leave(unit: number): void {
    const bytes = this.#options.bytesOf(unit);
    this.#resident.delete(unit);
    this.#bytes -= bytes;
    if (this.#ahead.delete(unit)) this.wastedBytes += bytes;
  }

  #victim(keepsGuesses: boolean): number | undefined {
    let found: number | undefined;
    let least = Number.POSITIVE_INFINITY;
    for (const unit of this.#resident) {
      if (this.#needed.has(unit) || (keepsGuesses && this.#guessed.has(unit))) continue;
      const worth = this.#options.eviction.worth(unit);
      if (found !== undefined && worth >= least) continue;
      found = unit;
      least = worth;
    }
    return found;
  }
}
