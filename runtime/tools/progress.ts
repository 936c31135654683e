// The progress of an import for people: bytes, rate and time left, in a line every few seconds. Pure but for the log and clock given.
import type { Log } from "./files.ts";

/** Time between lines, at least. */
const lineMsMin = 5_000;

const bytesText = (bytes: number): string => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);

function timeText(seconds: number): string {
  const whole = Math.ceil(seconds);
  return whole < 120 ? `${whole} s` : `${Math.ceil(whole / 60)} min`;
}

/** Bytes written of those that will be, and the time since the first. */
interface Done {
  readonly bytes: number;
  readonly of: number;
  readonly seconds: number;
}

export function progressText({ bytes, of, seconds }: Done): string {
  const rate = bytes / Math.max(seconds, 1e-3);
  const share = Math.floor((100 * bytes) / Math.max(of, 1));
  const left = bytes === 0 ? "" : `, ${timeText((of - bytes) / rate)} left`;
  return `${share}%, ${bytesText(bytes)} of ${bytesText(of)}, ${bytesText(rate)}/s${left}`;
}

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
    const done = { bytes: this.#bytes, of: this.#of, seconds: (now - this.#start) / 1000 };
    this.#log(`${where}: ${progressText(done)}`);
  }
}
