// The size of prompt chunks, pure: while requests generate, a chunk takes no more time than their next token may wait, by what chunks
// took lately.

/** Smaller chunks would cost more for what every step costs than they spare the others. */
export const chunkTokensMin = 16;
/** Weight of the newest chunk in the running estimate. */
const newest = 0.25;

export class ChunkPace {
  readonly #waitMs: number;
  #msPerToken: number | undefined;

  constructor(waitMs: number) {
    this.#waitMs = waitMs;
  }

  /** Takes note that a step computed so many prompt tokens in this time. */
  note(tokens: number, ms: number): void {
    if (tokens < chunkTokensMin) return; // mostly what every step costs
    const took = ms / tokens;
    this.#msPerToken = this.#msPerToken === undefined ? took : this.#msPerToken + newest * (took - this.#msPerToken);
  }

  /** Prompt tokens of a step between two steps of others, at most `most`. */
  tokens(most: number): number {
    if (this.#msPerToken === undefined) return most;
    return Math.min(most, Math.max(chunkTokensMin, Math.floor(this.#waitMs / this.#msPerToken)));
  }
}
