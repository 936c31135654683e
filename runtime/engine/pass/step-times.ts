// The time of steps by what it went into, per phase. Where a step has rows of both phases, each has its rows' part.
import type { Phase, StepSeconds } from "../../../crds/telemetry.ts";

/** Weight of what was measured before, each time that something is. */
const older = 0.99;

/** Rows that were computed together, of which the first ones decode. */
export interface StepRows {
  readonly rows: number;
  readonly decodes: number;
}

export class StepTimes {
  #seconds = zero();
  /** What was measured apart lately, to divide by it what was not. */
  readonly #apart = zero();

  add(rows: StepRows, kind: keyof StepSeconds, ms: number): void {
    for (const [phase, own] of byPhase(rows, ms)) {
      this.#seconds[phase][kind] += own / 1000;
      const apart = this.#apart[phase];
      apart.dense *= older;
      apart.experts *= older;
      apart[kind] += own;
    }
  }

  /** Time of both together, which is divided as in steps that were measured apart. */
  addBoth(rows: StepRows, ms: number): void {
    for (const [phase, own] of byPhase(rows, ms)) {
      const { dense, experts } = this.#apart[phase];
      const share = dense + experts > 0 ? experts / (dense + experts) : 0;
      this.#seconds[phase].experts += (share * own) / 1000;
      this.#seconds[phase].dense += ((1 - share) * own) / 1000;
    }
  }

  take(): Record<Phase, StepSeconds> {
    const seconds = this.#seconds;
    this.#seconds = zero();
    return seconds;
  }
}

/** The time of each phase that has rows. */
function byPhase({ rows, decodes }: StepRows, ms: number): readonly (readonly [Phase, number])[] {
  const decoded = decodes === 0 ? 0 : (ms * decodes) / rows;
  const both = [
    ["decode", decoded],
    ["prefill", ms - decoded],
  ] as const;
  return both.filter(([phase]) => (phase === "decode" ? decodes > 0 : decodes < rows));
}

function zero(): Record<Phase, { dense: number; experts: number }> {
  return { prefill: { dense: 0, experts: 0 }, decode: { dense: 0, experts: 0 } };
}
