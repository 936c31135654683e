// Scans a row of logits once for its maximum, a check and block maxima, so that later questions read a few blocks only.
import { firstNotFinite } from "./finite.ts";

const blockLogits = 128;

export class Row {
  #values: Float32Array = new Float32Array(0);
  #length = 0;
  #highest = new Float32Array(0);
  #sorted = new Float32Array(0);
  #best = 0;
  #ids = new Uint32Array(0);

  get values(): Float32Array {
    return this.#values;
  }

  /** The index of the largest value; of ties the first. */
  get best(): number {
    return this.#best;
  }

  /** The row must not change while it is in use. Returns the index of a NaN or infinite value, or -1. */
  scan(values: Float32Array): number {
    const length = values.length;
    const blocks = Math.ceil(length / blockLogits);
    if (this.#highest.length < blocks) {
      this.#highest = new Float32Array(blocks);
      this.#sorted = new Float32Array(blocks);
      this.#ids = new Uint32Array(length);
    } else if (this.#ids.length < length) this.#ids = new Uint32Array(length);
    this.#values = values;
    this.#length = length;
    const highest = this.#highest;
    let nothing = 0; // NaN once a value is not finite: infinity times 0 is NaN
    let bestBlock = 0;
    let best = Number.NEGATIVE_INFINITY;
    for (let block = 0, i = 0; block < blocks; block++) {
      const end = Math.min(length, i + blockLogits);
      let most = Number.NEGATIVE_INFINITY;
      for (; i < end; i++) {
        const value = values[i] as number;
        nothing += value * 0;
        if (value > most) most = value;
      }
      highest[block] = most;
      if (most > best) {
        best = most;
        bestBlock = block;
      }
    }
    const at = values.indexOf(best, bestBlock * blockLogits);
    this.#best = Math.max(at, 0);
    return nothing === 0 ? -1 : firstNotFinite(values);
  }

  /** A value that at least `count` values reach, as large as the blocks show. */
  floorOf(count: number): number {
    const blocks = Math.ceil(this.#length / blockLogits);
    if (count > blocks) return Number.NEGATIVE_INFINITY;
    const sorted = this.#sorted.subarray(0, blocks);
    sorted.set(this.#highest.subarray(0, blocks));
    sorted.sort();
    return sorted[blocks - count] as number;
  }

  atLeast(floor: number): Uint32Array {
    const values = this.#values;
    const ids = this.#ids;
    let count = 0;
    const blocks = Math.ceil(this.#length / blockLogits);
    for (let block = 0; block < blocks; block++) {
      if ((this.#highest[block] as number) < floor) continue;
      const end = Math.min(this.#length, (block + 1) * blockLogits);
      for (let i = block * blockLogits; i < end; i++) if ((values[i] as number) >= floor) ids[count++] = i;
    }
    return ids.subarray(0, count);
  }
}
