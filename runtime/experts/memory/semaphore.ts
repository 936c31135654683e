// A counting semaphore whose urgent waiters go first. The materializer bounds with it how many units are on their way into memory.

/** A semaphore with at most `slots` holders at once; the rest wait in order, urgent ones first. */
export class Semaphore {
  #free: number;
  readonly #waiting: { urgent: boolean; go: () => void }[] = [];

  constructor(slots: number) {
    this.#free = slots;
  }
  async run<T>(urgent: boolean, work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await this.#turn(urgent);
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next.go();
    }
  }
  #turn(urgent: boolean): Promise<void> {
    return new Promise((resolve) => {
      const entry = { urgent, go: resolve };
      const before = urgent ? this.#waiting.findIndex((other) => !other.urgent) : -1;
      if (before === -1) this.#waiting.push(entry);
      else this.#waiting.splice(before, 0, entry);
    });
  }
}
