// Memory for values that forward keeps so that backward need not compute them again, as far as it goes. What is computed again has the same
// bits, so the room decides time alone.

export class KeptBudget {
  readonly #floats: number;
  #left: number;

  constructor(floats: number) {
    this.#floats = floats;
    this.#left = floats;
  }

  /** To be called when a pass begins: nothing is kept then. */
  clear(): void {
    this.#left = this.#floats;
  }

  /** Whether so many floats may be kept. */
  take(floats: number): boolean {
    if (floats > this.#left) return false;
    this.#left -= floats;
    return true;
  }

  give(floats: number): void {
    this.#left += floats;
  }
}
