// A small store of what was used last, by key: graphs of the shapes that calls have had lately.

export class Recent<T> {
  readonly #entries = new Map<string, T>();
  readonly #most: number;
  readonly #drop: (value: T) => void;
  readonly #weigh: (value: T) => number;
  #weight = 0;

  /** `most`: entries kept, or their weight together where they weigh more or less than 1. */
  constructor(most: number, drop: (value: T) => void, weigh: (value: T) => number = () => 1) {
    this.#most = most;
    this.#drop = drop;
    this.#weigh = weigh;
  }

  /** The entry of that key if it is still good, else a new one in its place, for which those used longest ago leave. */
  take(key: string, good: (value: T) => boolean, make: () => T): T {
    const known = this.#entries.get(key);
    if (known !== undefined && good(known)) {
      this.#entries.delete(key);
      this.#entries.set(key, known);
      return known;
    }
    if (known !== undefined) this.#leave(key, known);
    const made = make();
    this.#weight += this.#weigh(made);
    for (const [oldest, value] of this.#entries) {
      if (this.#weight <= this.#most) break;
      this.#leave(oldest, value);
    }
    this.#entries.set(key, made);
    return made;
  }

  clear(): void {
    for (const [key, value] of this.#entries) this.#leave(key, value);
  }

  #leave(key: string, value: T): void {
    this.#entries.delete(key);
    this.#weight -= this.#weigh(value);
    this.#drop(value);
  }
}
