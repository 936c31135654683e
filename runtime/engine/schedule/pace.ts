// The work that fits into a time, by what the same work took lately: the size of the chunks of a prompt, and of their pieces, while others
// wait.

/** Weight of the newest measurement. */
const newest = 0.2;

export interface PieceSizes {
  /** Never smaller, however slow it is: below, the fixed cost of a graph is most of it. */
  readonly least: number;
  readonly most: number;
}

export class Pace {
  readonly #sizes: PieceSizes;
  /** Milliseconds for one row, pair or token; 0 = nothing was measured yet. */
  #each = 0;

  constructor(sizes: PieceSizes) {
    this.#sizes = sizes;
  }

  /** Work of less than the least size is mostly what every graph costs, and tells nothing. */
  took(count: number, ms: number): void {
    if (count < this.#sizes.least || !(ms >= 0)) return;
    const each = ms / count;
    this.#each = this.#each === 0 ? each : this.#each + newest * (each - this.#each);
  }

  /** The largest size whose computation takes no longer; the least one as long as nobody knows. */
  within(ms: number): number {
    const { least, most } = this.#sizes;
    if (this.#each === 0) return least;
    const fits = Math.max(1, ms / this.#each);
    const power = 2 ** Math.floor(Math.log2(fits));
    return Math.max(least, Math.min(most, 1.5 * power <= fits && power > 1 ? 1.5 * power : power));
  }
}
