// The API server's time by the Date of its answers, carried on by the monotonic clock. Stamps in objects are compared with it: a replica's
// own clock may be wrong, and so may that of one API server of several.
import { type Clock, monotonicClock, systemClock } from "./workqueue.ts";

/** Answers whose median counts: one API server in three may be wrong. */
const answersMax = 15;
/** A Date has whole seconds. */
const dateStepMs = 1_000;

export class ServerClock {
  readonly #steady: Pick<Clock, "now">;
  readonly #offsets: number[] = [];
  #offsetMs: number;

  /** Begins with this machine's time, which stays where the answers allow it. */
  constructor(steady: Pick<Clock, "now"> = monotonicClock, wall: () => number = systemClock.now) {
    this.#steady = steady;
    this.#offsetMs = wall() - steady.now();
  }

  readonly now = (): Date => new Date(Math.floor(this.#steady.now() + this.#offsetMs));

  /** Its time now, carried on steadily whatever is answered later: one clock for ages and for stamps. */
  readonly steady = (): Clock => {
    const offsetMs = this.#offsetMs;
    return { ...systemClock, now: () => Math.floor(this.#steady.now() + offsetMs) };
  };

  /** Returns what is to be called with the Date of the answer, however late that comes. */
  readonly asks = (): ((date: string | undefined) => void) => {
    const askedAt = this.#steady.now();
    return (date) => {
      const at = Date.parse(date ?? "");
      if (Number.isFinite(at)) this.#answered(at - this.#steady.now(), at + dateStepMs - askedAt);
    };
  };

  #answered(leastMs: number, mostMs: number): void {
    this.#offsets.push(Math.min(Math.max(this.#offsetMs, leastMs), mostMs));
    if (this.#offsets.length > answersMax) this.#offsets.shift();
    this.#offsetMs = this.#offsets.toSorted((a, b) => a - b)[this.#offsets.length >> 1] ?? this.#offsetMs;
  }
}
