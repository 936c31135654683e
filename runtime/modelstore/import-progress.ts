// The progress of an import for people: bytes, rate and time left, in a line every few seconds. Pure but for the log and clock given.
import { progressText } from "../../crds/progress-text.ts";
import type { Log } from "./companions.ts";

/** Time between lines, at least. */
const lineMsMin = 5_000;

export class Progress {
  readonly #log: Log;
  readonly #of: number;
  readonly #now: () => number;
  readonly #start: number;
  #bytes = 0;
  #last: number;

  /** `of`: bytes that will be written. */
  constructor(log: Log, of: number, now: () => number = () => performance.now()) {
    this.#log = log;
    this.#of = of;
    this.#now = now;
    this.#start = now();
    this.#last = this.#start;
  }

  /** `where` says what they belong to. */
  add(bytes: number, where: string): void {
    this.#bytes += bytes;
    const now = this.#now();
    if (now - this.#last < lineMsMin && this.#bytes < this.#of) return;
    this.#last = now;
    const bytesPerSecond = this.#bytes / Math.max((now - this.#start) / 1000, 1e-3);
    this.#log(`${where}: ${progressText({ bytes: this.#bytes, of: this.#of, bytesPerSecond })}`);
  }
}
