// A small store of what was used last, by key: graphs of the shapes that calls have had lately.

export class Recent<T> {
  readonly #entries = new Map<string, T>();
  readonly #most: number;
  readonly #drop: (value: T) => void;

  /** `most`: entries kept; `drop` is called for each that leaves. */
  constructor(most: number, drop: (value: T) => void) {
    this.#most = most;
    this.#drop = drop;
  }

  /** The entry of that key if it is still good, else a new one in its place. */
  take(key: string, good: (value: T) => boolean, make: () => T): T {
    const known = this.#entries.get(key);
    this.#entries.delete(key);
    if (known !== undefined && good(known)) {
      this.#entries.set(key, known);
      return known;
    }
    if (known !== undefined) this.#drop(known);
    const oldest = this.#entries.keys().next().value;
    if (this.#entries.size >= this.#most && oldest !== undefined) {
      this.#drop(this.#entries.get(oldest) as T);
      this.#entries.delete(oldest);
    }
    const made = make();
    this.#entries.set(key, made);
    return made;
  }

  clear(): void {
    for (const value of this.#entries.values()) this.#drop(value);
    this.#entries.clear();
  }
}
