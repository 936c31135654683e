// A semaphore with a FIFO queue for connects: DECISIONS.md 5.

/** The most links of all deployments that connect at once. */
export const connectsMax = 128;

export class Semaphore {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  /** Runs `begin` once a slot is free. Call `leave` once afterwards. */
  enter(begin: () => void): void {
    if (this.#free === 0) return void this.#waiting.push(begin);
    this.#free -= 1;
    begin();
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}
