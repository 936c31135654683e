// Logs the progress of an import every few seconds.
import { progressText } from "../../crds/progress-text.ts";
import type { Log } from "./companions.ts";

const lineMsMin = 5_000;

export class Progress {
  readonly #log: Log;
  readonly #of: number;
  readonly #now: () => number;
  readonly #start: number;
  #bytes = 0;
  #last: number;

  /** `of`: total bytes to write. */
  constructor(log: Log, of: number, now: () => number = () => performance.now()) {
    this.#log = log;
    this.#of = of;
    this.#now = now;
    this.#start = now();
    this.#last = this.#start;
  }

  /** `where`: the part that they belong to. */
  add(bytes: number, where: string): void {
    this.#bytes += bytes;
    const now = this.#now();
    if (now - this.#last < lineMsMin && this.#bytes < this.#of) return;
    this.#last = now;
    const bytesPerSecond = this.#bytes / Math.max((now - this.#start) / 1000, 1e-3);
    this.#log(`${where}: ${progressText({ bytes: this.#bytes, of: this.#of, bytesPerSecond })}`);
  }
}
