// Download progress for the operator: phase, bytes and recent rate.
import type { DownloadPhase, DownloadProgress } from "../../../crds/download.ts";

/** Window of the rate. */
const windowMs = 20_000;
const stepMs = 1_000;
const messageCharsMax = 1024;

export class Progress {
  readonly #pod: string;
  readonly #now: () => number;
  #phase: DownloadPhase = "Starting";
  #total = 0;
  #done = 0;
  #revision: string | undefined;
  #message = "";
  /** Downloaded bytes over time, oldest first. */
  #marks: { readonly at: number; readonly done: number }[] = [];

  constructor(pod: string, now: () => number = () => performance.now()) {
    this.#pod = pod;
    this.#now = now;
  }

  phase(phase: DownloadPhase): void {
    this.#phase = phase;
    this.#message = "";
  }

  listed(revision: string | undefined): void {
    this.#revision = revision;
  }

  /** `there` was on the disk before and does not count as rate. */
  start(total: number, there: number): void {
    this.#phase = "Downloading";
    this.#total = total;
    this.#done = there;
    this.#marks = [{ at: this.#now(), done: there }];
  }

  add(bytes: number): void {
    this.#done += bytes;
    const at = this.#now();
    if (at - (this.#marks.at(-1)?.at ?? 0) >= stepMs) this.#marks.push({ at, done: this.#done });
    while ((this.#marks[1]?.at ?? at) <= at - windowMs) this.#marks.shift();
  }

  say(message: string): void {
    this.#message = message.slice(0, messageCharsMax);
  }

  message(): DownloadProgress {
    const [first] = this.#marks;
    const seconds = first ? (this.#now() - first.at) / 1000 : 0;
    const rate = first && seconds > 0 && this.#phase === "Downloading" ? Math.max(0, (this.#done - first.done) / seconds) : 0;
    return {
      pod: this.#pod,
      phase: this.#phase,
      doneBytes: Math.max(0, this.#done),
      totalBytes: this.#total,
      bytesPerSecond: Math.round(rate),
      ...(this.#revision !== undefined && { revision: this.#revision }),
      message: this.#message,
    };
  }
}
