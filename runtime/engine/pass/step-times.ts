// The time of steps by cause and phase; a mixed step is divided by rows.
import type { Phase, StepSeconds } from "../../../crds/telemetry.ts";

/** The decay of old measurements. */
const older = 0.99;

/** Rows that were computed together, decoding ones first. */
export interface StepRows {
  readonly rows: number;
  readonly decodes: number;
}

export class StepTimes {
  #seconds = zero();
  /** Recent separate measurements, by which joint ones are divided. */
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

  /** Adds a joint time. */
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
