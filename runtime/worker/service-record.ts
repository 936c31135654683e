// Totals of the requests that this process has served since it started: by them the operator compares ranks of two templates. Those
// that the caller gave up or that go on elsewhere say nothing of this worker and are not counted, nor are those that nobody could serve.
import { AppError } from "../../crds/common.ts";
import type { FinishReason } from "../engine/engine.ts";

export interface ServedTotals {
  /** Requests that ended here, with their text or an error. */
  readonly requests: number;
  /** Those that ended with an error. */
  readonly failed: number;
  /** Times from one token of a request to its next. */
  readonly gaps: number;
  /** Microseconds of all of them. */
  readonly gapMicros: number;
}

const isServed: Readonly<Record<FinishReason, boolean>> = { stop: true, length: true, cancelled: false, draining: false };
/** Errors that are the caller's. */
const theCallers = ["InvalidRequest", "ContextOverflow", "Cancelled", "Forbidden", "Unauthenticated"];

export class ServiceRecord {
  #requests = 0;
  #failed = 0;
  #gaps = 0;
  #gapMicros = 0;

  ended(reason: FinishReason): void {
    if (isServed[reason]) this.#requests += 1;
  }

  /** Returns true where the error is this worker's. */
  failed(caught: unknown): boolean {
    if (theCallers.includes(AppError.from(caught).code)) return false;
    this.#requests += 1;
    this.#failed += 1;
    return true;
  }

  gap(ms: number): void {
    this.#gaps += 1;
    this.#gapMicros += Math.round(ms * 1000);
  }

  get totals(): ServedTotals {
    return { requests: this.#requests, failed: this.#failed, gaps: this.#gaps, gapMicros: this.#gapMicros };
  }
}
