// The time of steps by what it went into, per phase since the last reading: computing what is not experts, and waiting for experts,
// here and elsewhere. The planner hides transfers behind it.
import type { Phase, StepSeconds } from "../../crds/telemetry.ts";

/** Weight of what was measured before, each time that something is. */
const older = 0.99;

export class StepTimes {
  #seconds = zero();
  /** What was measured apart lately, to divide by it what was not. */
  readonly #apart = zero();

  add(phase: Phase, kind: keyof StepSeconds, ms: number): void {
    this.#seconds[phase][kind] += ms / 1000;
    const apart = this.#apart[phase];
    apart.dense *= older;
    apart.experts *= older;
    apart[kind] += ms;
  }

  /** Time of both together, which is divided as in steps that were measured apart. */
  addBoth(phase: Phase, ms: number): void {
    const { dense, experts } = this.#apart[phase];
    const share = dense + experts > 0 ? experts / (dense + experts) : 0;
    this.#seconds[phase].experts += (share * ms) / 1000;
    this.#seconds[phase].dense += ((1 - share) * ms) / 1000;
  }

  take(): Record<Phase, StepSeconds> {
    const seconds = this.#seconds;
    this.#seconds = zero();
    return seconds;
  }
}

function zero(): Record<Phase, { dense: number; experts: number }> {
  return { prefill: { dense: 0, experts: 0 }, decode: { dense: 0, experts: 0 } };
}
