// Decides whether a step goes through the layers in two batches (../DECISIONS.md 4).
import type { StepKind } from "../../../crds/telemetry.ts";

/** Smaller steps are never divided. */
const rowsLeast: Readonly<Record<StepKind, number>> = { decode: 8, mixed: 32, prefill: 64 };
/** A whole step that waits for less of its time is not divided. */
const waitShareLeast = 0.15;
/** The part of the time that dividing must save. */
const gainLeast = 0.03;
const tryAgainSteps = 64;
const newest = 0.25;

interface Measured {
  /** Milliseconds per row. */
  whole: number | undefined;
  overlapped: number | undefined;
  waitShare: number;
  steps: number;
}

export interface StepTaken {
  readonly kind: StepKind;
  readonly rows: number;
  readonly overlapped: boolean;
  readonly ms: number;
  /** The part spent only waiting for other ranks. */
  readonly waitedMs: number;
}

export class TwoBatchOverlap {
  /** The key is kind and size, in powers of two. */
  readonly #measured = new Map<string, Measured>();

  wants(kind: StepKind, rows: number): boolean {
    if (rows < rowsLeast[kind]) return false;
    const { whole, overlapped, waitShare, steps } = this.#at(kind, rows);
    if (whole === undefined || waitShare < waitShareLeast) return false;
    if (overlapped === undefined) return true;
    const better = overlapped < whole * (1 - gainLeast);
    return steps % tryAgainSteps === 0 ? !better : better;
  }

  took({ kind, rows, overlapped, ms, waitedMs }: StepTaken): void {
    if (rows < rowsLeast[kind] || !(ms > 0)) return;
    const measured = this.#at(kind, rows);
    measured.steps += 1;
    if (overlapped) measured.overlapped = mean(measured.overlapped, ms / rows);
    else {
      measured.waitShare = measured.whole === undefined ? waitedMs / ms : mean(measured.waitShare, waitedMs / ms);
      measured.whole = mean(measured.whole, ms / rows);
    }
  }

  #at(kind: StepKind, rows: number): Measured {
    const key = `${kind}.${Math.floor(Math.log2(rows))}`;
    const known = this.#measured.get(key) ?? { whole: undefined, overlapped: undefined, waitShare: 0, steps: 0 };
    this.#measured.set(key, known);
    return known;
  }
}

function mean(known: number | undefined, value: number): number {
  return known === undefined ? value : known + newest * (value - known);
}
