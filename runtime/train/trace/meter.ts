// Counts what a rank computes, as planners reckon with it: the time of rows at experts, and of what layers compute beside them.
import type { Clocked, NamedSpan } from "./recorder.ts";

/** Since it was taken last, in milliseconds. */
export interface Metered {
  readonly expertMs: number;
  /** Rows that passed an expert forward. */
  readonly rows: number;
  /** Of blocks, forward. */
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

  /** Counts nothing meanwhile: rows that pass forward alone are no measure of those that pass backward too. */
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
