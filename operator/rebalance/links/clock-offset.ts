// The offset of a pod's clock from the operator's, by pings and their answers on the Control stream: an answer was written somewhere
// between the two moments that the operator knows, so that the quickest answer says most. Pure.

/** Answers that are remembered. */
const answersMax = 8;
/** Two clocks that nobody sets go apart by less between the answers that are remembered. */
const driftMs = 100;
/** An answer that took longer says nothing. */
const roundTripMsMax = 4_000;

interface Answer {
  readonly offsetMs: number;
  readonly roundTripMs: number;
}

export class ClockOffset {
  #answers: readonly Answer[] = [];

  /** A ping of `sentMs`, answered when the pod's clock said `theirMs`, whose answer came at `nowMs`. */
  answered(sentMs: number, theirMs: number, nowMs: number): void {
    const roundTripMs = nowMs - sentMs;
    if (roundTripMs < 0 || roundTripMs > roundTripMsMax) return;
    const answer = { offsetMs: theirMs - (sentMs + nowMs) / 2, roundTripMs };
    // Each is wrong by half its round trip at most: answers that are further apart are of a clock that was set, here or there, since.
    const near = this.#answers.filter((one) => Math.abs(one.offsetMs - answer.offsetMs) <= (one.roundTripMs + roundTripMs) / 2 + driftMs);
    this.#answers = [...near, answer].slice(-answersMax);
  }

  /** Milliseconds that the pod's clock is ahead; undefined before its first answer. Wrong by half the round trip at most. */
  get ms(): number | undefined {
    return this.#answers.toSorted((a, b) => a.roundTripMs - b.roundTripMs)[0]?.offsetMs;
  }

  /** Another process may have another clock. */
  forget(): void {
    this.#answers = [];
  }
}
