// Serializes use of the backend, since a program's outputs are valid until its next run.

export class Mutex {
  #busy = false;
  readonly #waiting: (() => void)[] = [];

  async run<T>(work: () => Promise<T>): Promise<T> {
    await this.#enter();
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  /** The holder lets others run until that has settled. */
  async pause(until: Promise<unknown>): Promise<void> {
    this.#leave();
    try {
      await until;
    } finally {
      await this.#enter();
    }
  }

  async #enter(): Promise<void> {
    if (this.#busy) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#busy = true;
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#busy = false;
  }
}
