// The size of prompt chunks, pure: while requests generate, prompts add no more time to a step than their next tokens may wait, by what
// rows took lately.

/** Smaller chunks would cost more for what every step costs than they spare the others. Larger ones are multiples of it, so that graphs
 *  of a few shapes do for all. */
export const chunkTokensMin = 16;
/** Weight of the newest chunk in the running estimate. */
const newest = 0.25;

export class ChunkPace {
  readonly #waitMs: number;
  #msPerRow: number | undefined;

  constructor(waitMs: number) {
    this.#waitMs = waitMs;
  }

  /** Takes note that a step with prompts among its rows took so long. */
  note(rows: number, ms: number): void {
    if (rows < chunkTokensMin) return; // mostly what every step costs
    const took = ms / rows;
    this.#msPerRow = this.#msPerRow === undefined ? took : this.#msPerRow + newest * (took - this.#msPerRow);
  }

  /** Prompt tokens of a step in which others decode, at most `most`. */
  tokens(most: number): number {
    if (this.#msPerRow === undefined) return most;
    const fits = chunkTokensMin * Math.floor(this.#waitMs / this.#msPerRow / chunkTokensMin);
    return Math.min(most, Math.max(chunkTokensMin, fits));
  }
}
