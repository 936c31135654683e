// The budget for values that forward stores to spare backward work. It changes time, not bits.

export class KeptBudget {
  readonly #floats: number;
  #left: number;

  constructor(floats: number) {
    this.#floats = floats;
    this.#left = floats;
  }

  clear(): void {
    this.#left = this.#floats;
  }

  take(floats: number): boolean {
    if (floats > this.#left) return false;
    this.#left -= floats;
    return true;
  }

  give(floats: number): void {
    this.#left += floats;
  }
}
