// One user of the backend at a time: a program's outputs are valid until its next run, and frames of other ranks come in between a step's
// own calls.

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

  /** For who has it: others have their turn, and all that waits for the event loop. */
  async pause(): Promise<void> {
    this.#leave();
    await new Promise<void>((resolve) => setImmediate(resolve));
    await this.#enter();
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
