// The offset of a pod's clock from the operator's, by pings and their answers on the Control stream: an answer was written somewhere
// between the two moments that the operator knows, so that the quickest answer says most. Pure.

/** Answers that are remembered, one per ping: a clock that was set, here or there, is followed after so many. */
const answersMax = 8;
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
    this.#answers = [...this.#answers, answer].slice(-answersMax);
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
