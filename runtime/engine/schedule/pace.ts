// Estimates from recent measurements how much work fits into a time.

/** The weight of the newest measurement. */
const newest = 0.2;

export interface PieceSizes {
  /** The minimum size: below, a graph's fixed cost dominates. */
  readonly least: number;
  readonly most: number;
}

export class Pace {
  readonly #sizes: PieceSizes;
  /** Milliseconds per row, pair or token; 0 = no measurement yet. */
  #each = 0;

  constructor(sizes: PieceSizes) {
    this.#sizes = sizes;
  }

  /** Ignores smaller work, which is mostly fixed cost. */
  took(count: number, ms: number): void {
    if (count < this.#sizes.least || !(ms >= 0)) return;
    const each = ms / count;
    this.#each = this.#each === 0 ? each : this.#each + newest * (each - this.#each);
  }

  /** The largest size that takes no longer; the minimum without a measurement. */
  within(ms: number): number {
    const { least, most } = this.#sizes;
    if (this.#each === 0) return least;
    const fits = Math.max(1, ms / this.#each);
    const power = 2 ** Math.floor(Math.log2(fits));
    return Math.max(least, Math.min(most, 1.5 * power <= fits && power > 1 ? 1.5 * power : power));
  }
}
