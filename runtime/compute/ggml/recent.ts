// A cache of recently used entries by key, such as graphs by shape.

export class Recent<T> {
  readonly #entries = new Map<string, T>();
  readonly #most: number;
  readonly #drop: (value: T) => void;
  readonly #weigh: (value: T) => number;
  #weight = 0;

  /** `most` limits the number of entries, or their total weight. */
  constructor(most: number, drop: (value: T) => void, weigh: (value: T) => number = () => 1) {
    this.#most = most;
    this.#drop = drop;
    this.#weigh = weigh;
  }

  /** Returns a good entry or makes a new one, and evicts the least recently used. */
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
