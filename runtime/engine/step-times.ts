// The time of steps by what it went into, per phase since the last reading: computing what is not experts, and waiting for experts,
// here and elsewhere. Where a step has rows of both phases, each has its rows' part. The planner hides transfers behind it.
import type { Phase, StepSeconds } from "../../crds/telemetry.ts";

/** Rows that were computed together, of which the first ones decode. */
export interface StepRows {
  readonly rows: number;
  readonly decodes: number;
}

export class StepTimes {
  #seconds = zero();

  add({ rows, decodes }: StepRows, kind: keyof StepSeconds, ms: number): void {
    const decoded = rows === 0 ? 0 : (ms * decodes) / rows;
    this.#seconds.decode[kind] += decoded / 1000;
    this.#seconds.prefill[kind] += (ms - decoded) / 1000;
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
