// Guesses at the next tokens of a text, pure: what followed the same few tokens when they stood in it before, as in code, quotes and lists.

/** Tokens that have to be the same. */
const matchTokens = 3;
/** Tokens of the first guess. */
const firstGuess = 4;
/** Share of guessed tokens that came true, lately, below which guesses are few, and how many chances are then left out between two. */
const worthwhile = 0.25;
const skippedBetween = 15;
/** Weight of the newest guess in that share. */
const newest = 0.2;

export class Drafter {
  readonly #most: number;
  readonly #tokens: number[] = [];
  /** Where a token follows that came after these, by their hash; of several places the last. */
  readonly #after = new Map<number, number>();
  /** The same of the text's present end, but for itself. */
  #match: number | undefined;
  #length: number;
  #share = 0.5;
  #skip = 0;

  /** `most`: tokens of a guess. */
  constructor(most: number, text: ArrayLike<number>) {
    this.#most = most;
    this.#length = Math.min(firstGuess, most);
    for (let i = 0; i < text.length; i++) this.push(text[i] as number);
  }

  /** The text goes on with this token. */
  push(token: number): void {
    this.#tokens.push(token);
    const end = this.#tokens.length;
    if (end < matchTokens) return;
    let key = 0;
    for (let i = end - matchTokens; i < end; i++) key = (Math.imul(key, 0x01000193) ^ (this.#tokens[i] as number)) >>> 0;
    this.#match = this.#after.get(key);
    this.#after.set(key, end);
  }

  /** At most so many tokens that may come next. */
  guess(limit: number): readonly number[] {
    const length = Math.min(limit, this.#length);
    if (this.#match === undefined || length <= 0) return [];
    if (this.#share < worthwhile && this.#skip++ < skippedBetween) return [];
    this.#skip = 0;
    return this.#tokens.slice(this.#match, this.#match + length);
  }

  /** Of the last guess, so many came true. */
  learn(guessed: number, cameTrue: number): void {
    this.#share += newest * (cameTrue / guessed - this.#share);
    this.#length = cameTrue === guessed ? Math.min(this.#most, 2 * this.#length) : Math.max(1, cameTrue);
  }
}
