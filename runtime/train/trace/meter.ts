// Measures a rank's computing for planners: rows at experts, and the other work of layers.
import type { Clocked, NamedSpan } from "./recorder.ts";

/** Since the last call, in milliseconds. */
export interface Metered {
  readonly expertMs: number;
  /** Forward only. */
  readonly rows: number;
  readonly blockMs: number;
}

export class Meter implements Clocked {
  readonly #now: () => number;
  #expertMs = 0;
  #rows = 0;
  #blockMs = 0;
  #counts = true;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Pauses the meter: rows of a pure forward pass would skew it. */
  async beside<T>(run: () => Promise<T>): Promise<T> {
    this.#counts = false;
    try {
      return await run();
    } finally {
      this.#counts = true;
    }
  }

  async around<T>({ name, rows = 0 }: NamedSpan, run: () => Promise<T>): Promise<T> {
    if (!this.#counts) return run();
    const from = this.#now();
    const done = await run();
    const ms = this.#now() - from;
    if (name.startsWith("expert ")) this.#expertMs += ms;
    if (name === "expert forward") this.#rows += rows;
    if (name === "block forward") this.#blockMs += ms;
    return done;
  }

  take(): Metered {
    const metered = { expertMs: this.#expertMs, rows: this.#rows, blockMs: this.#blockMs };
    [this.#expertMs, this.#rows, this.#blockMs] = [0, 0, 0];
    return metered;
  }
}
