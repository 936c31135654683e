// The time of steps by what it went into, per phase since the last reading: computing what is not experts, and waiting for experts,
// here and elsewhere. The planner hides transfers behind it.
import type { Phase, StepSeconds } from "../../crds/telemetry.ts";

export class StepTimes {
  #seconds = zero();

  add(phase: Phase, kind: keyof StepSeconds, ms: number): void {
    this.#seconds[phase][kind] += ms / 1000;
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
