// Estimates the offset of a pod's clock from pings on the Control stream. The quickest answer is the most precise.

const answersMax = 8;
/** The most drift of two unadjusted clocks between stored answers. */
const driftMs = 100;
const roundTripMsMax = 4_000;

interface Answer {
  readonly offsetMs: number;
  readonly roundTripMs: number;
}

export class ClockOffset {
  #answers: readonly Answer[] = [];

  /** A ping sent at `sentMs` that the pod answered at `theirMs` on its clock, received at `nowMs`. */
  answered(sentMs: number, theirMs: number, nowMs: number): void {
    const roundTripMs = nowMs - sentMs;
    if (roundTripMs < 0 || roundTripMs > roundTripMsMax) return;
    const answer = { offsetMs: theirMs - (sentMs + nowMs) / 2, roundTripMs };
    // An answer is wrong by at most half its round trip; answers further apart predate an adjusted clock.
    const near = this.#answers.filter((one) => Math.abs(one.offsetMs - answer.offsetMs) <= (one.roundTripMs + roundTripMs) / 2 + driftMs);
    this.#answers = [...near, answer].slice(-answersMax);
  }

  get ms(): number | undefined {
    return this.#answers.toSorted((a, b) => a.roundTripMs - b.roundTripMs)[0]?.offsetMs;
  }

  forget(): void {
    this.#answers = [];
  }
}
