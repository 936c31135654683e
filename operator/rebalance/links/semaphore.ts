// Turns at what costs much time at its beginning: so many are taken at once, and the others wait in the order in which they came. A
// new leader has thousands of pods to connect to, and would answer none of them in time if it began with all at the same moment.

/** Links that connect at the same time, of all deployments. A small install never waits. */
export const connectsMax = 128;

export class Semaphore {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  /** Runs `begin` when it is its turn, now where one is free. It has to be followed by one `leave`. */
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
