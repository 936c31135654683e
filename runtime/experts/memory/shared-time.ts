// Divides time among concurrent transfers, so that total bytes over total charged time is the overall rate.

export interface Timed<T> {
  readonly result: T;
  readonly ms: number;
}

export class SharedTime {
  readonly #now: () => number;
  readonly #running = new Set<{ ms: number }>();
  #at = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  async run<T>(work: () => Promise<T>): Promise<Timed<T>> {
    this.#share();
    const mine = { ms: 0 };
    this.#running.add(mine);
    try {
      const result = await work();
      this.#share();
      return { result, ms: mine.ms };
    } finally {
      this.#share();
      this.#running.delete(mine);
    }
  }

  /** Charges the time since the last start or end. */
  #share(): void {
    const now = this.#now();
    const part = (now - this.#at) / Math.max(1, this.#running.size);
    for (const each of this.#running) each.ms += part;
    this.#at = now;
  }
}
