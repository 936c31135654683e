// Guesses the next tokens from what followed the same few tokens earlier in the text, pure.

const matchTokens = 3;
const firstGuess = 4;
/** Below this rate of accepted tokens guesses are short, and most chances are skipped. */
const worthwhile = 0.25;
const skippedBetween = 15;
const newest = 0.2;

export class Drafter {
  readonly #most: number;
  readonly #tokens: number[] = [];
  readonly #after = new Map<number, number>();
  #match: number | undefined;
  #length: number;
  #share = 0.5;
  #skip = 0;

  /** `most`: the longest guess. */
  constructor(most: number, text: ArrayLike<number>) {
    this.#most = most;
    this.#length = Math.min(firstGuess, most);
    for (let i = 0; i < text.length; i++) this.push(text[i] as number);
  }

  push(token: number): void {
    this.#tokens.push(token);
    const end = this.#tokens.length;
    if (end < matchTokens) return;
    let key = 0;
    for (let i = end - matchTokens; i < end; i++) key = (Math.imul(key, 0x01000193) ^ (this.#tokens[i] as number)) >>> 0;
    this.#match = this.#after.get(key);
    this.#after.set(key, end);
  }

  guess(limit: number): readonly number[] {
    const length = Math.min(limit, this.#length);
    if (this.#match === undefined || length <= 0) return [];
    if (this.#share < worthwhile && this.#skip++ < skippedBetween) return [];
    this.#skip = 0;
    return this.#tokens.slice(this.#match, this.#match + length);
  }

  /** The number of accepted tokens of the last guess. */
  learn(guessed: number, cameTrue: number): void {
    this.#share += newest * (cameTrue / guessed - this.#share);
    this.#length = cameTrue === guessed ? Math.min(this.#most, 2 * this.#length) : Math.max(1, cameTrue);
  }
}
