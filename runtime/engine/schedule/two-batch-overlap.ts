// Decides whether a step goes through the layers in two batches, so that rows of one travel while the other computes (../DECISIONS.md 4).
import type { StepKind } from "../../../crds/telemetry.ts";

/** Rows of a step below which an overlap is not worth a try. */
const rowsLeast: Readonly<Record<StepKind, number>> = { decode: 8, mixed: 32, prefill: 64 };
/** Part of a whole step's time that is spent waiting for other ranks, below which there is little to hide. */
const waitShareLeast = 0.15;
/** Part of the time that an overlap must save to be used. */
const gainLeast = 0.03;
/** Steps after which the slower way is tried again, since load, context and machines change. */
const tryAgainSteps = 64;
/** Weight of the newest measurement. */
const newest = 0.25;

interface Measured {
  /** Milliseconds for one row. */
  whole: number | undefined;
  overlapped: number | undefined;
  /** Of whole steps. */
  waitShare: number;
  steps: number;
}

export interface StepTaken {
  readonly kind: StepKind;
  readonly rows: number;
  readonly overlapped: boolean;
  readonly ms: number;
  /** Part of it with nothing to do but wait for other ranks. */
  readonly waitedMs: number;
}

export class TwoBatchOverlap {
  /** By kind and size, in powers of two. */
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
