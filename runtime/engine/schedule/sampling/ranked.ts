// Indexes by descending value, ties by index: a heap that is sorted as far as it is read.

export class Ranked {
  readonly length: number;
  readonly #values: Float32Array;
  /** The heap, then the removed indexes in ascending order of value. */
  readonly #ids: Uint32Array;
  #heap: number;

  /** Takes `ids` over and reorders them. */
  constructor(values: Float32Array, ids: Uint32Array) {
    this.#values = values;
    this.#ids = ids;
    this.length = ids.length;
    this.#heap = ids.length;
    for (let i = (ids.length >> 1) - 1; i >= 0; i--) this.#sink(i);
  }

  /** Rank 0 is the largest. */
  at(i: number): number {
    const ids = this.#ids;
    for (let last = this.#heap - 1; last >= this.length - 1 - i; last--) {
      const largest = ids[0] as number;
      ids[0] = ids[last] as number;
      ids[last] = largest;
      this.#heap = last;
      this.#sink(0);
    }
    return ids[this.length - 1 - i] as number;
  }

  #sink(from: number): void {
    const ids = this.#ids;
    const id = ids[from] as number;
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#heap) break;
      if (child + 1 < this.#heap && this.#before(ids[child + 1] as number, ids[child] as number)) child++;
      if (!this.#before(ids[child] as number, id)) break;
      ids[at] = ids[child] as number;
      at = child;
    }
    ids[at] = id;
  }

  #before(a: number, b: number): boolean {
    const x = this.#values[a] as number;
    const y = this.#values[b] as number;
    return x > y || (x === y && a < b);
  }
}
