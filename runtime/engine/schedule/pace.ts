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
    this.#each = this.#each === 0 ? each : moved(this.#each, each);
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

/** How many tokens of prompts add no more than some time to a step that decodes. */
export class ChunkPace {
  readonly #pace: Pace;
  /** The newest steps without prompts. */
  readonly #decode = { rows: 0, ms: 0 };

  constructor(sizes: PieceSizes) {
    this.#pace = new Pace(sizes);
  }

  /** A step of so many tokens, of which the first `decodes` decode. */
  took(tokens: number, decodes: number, ms: number): void {
    if (tokens > decodes) this.#pace.took(tokens - decodes, Math.max(0, ms - this.#without(decodes)));
    else Object.assign(this.#decode, { rows: decodes, ms: decodes === this.#decode.rows ? moved(this.#decode.ms, ms) : ms });
  }

  within(ms: number): number {
    return this.#pace.within(ms);
  }

  /** What a step takes without prompts, at least: fewer rows take the time of a part at least, more take no less. */
  #without(decodes: number): number {
    const { rows, ms } = this.#decode;
    return rows === 0 ? 0 : ms * Math.min(1, decodes / rows);
  }
}

const moved = (mean: number, value: number): number => mean + newest * (value - mean);
