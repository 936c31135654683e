// Totals of served requests, by which the operator compares ranks of two templates. Requests that were cancelled, moved or refused by
// all are not counted.
import { AppError } from "../../crds/common.ts";
import type { FinishReason } from "../engine/engine.ts";

export interface ServedTotals {
  /** Finished requests, failed ones included. */
  readonly requests: number;
  readonly failed: number;
  /** Times between two tokens of a request. */
  readonly gaps: number;
  /** The sum of these times in microseconds. */
  readonly gapMicros: number;
  /** Requests that had a first token here, and the sum of the times from their arrival to it. */
  readonly firstTokens: number;
  readonly firstTokenMicros: number;
}

const isServed: Readonly<Record<FinishReason, boolean>> = { stop: true, length: true, cancelled: false, draining: false };
/** Errors of the caller. */
const theCallers = ["InvalidRequest", "ContextOverflow", "KeyReused", "Cancelled", "Forbidden", "Unauthenticated"];

export class ServiceRecord {
  #requests = 0;
  #failed = 0;
  #gaps = 0;
  #gapMicros = 0;
  #firstTokens = 0;
  #firstTokenMicros = 0;

  ended(reason: FinishReason): void {
    if (isServed[reason]) this.#requests += 1;
  }

  /** True if this worker caused the error. */
  failed(caught: unknown): boolean {
    if (theCallers.includes(AppError.from(caught).code)) return false;
    this.#requests += 1;
    this.#failed += 1;
    return true;
  }

  first(ms: number): void {
    this.#firstTokens += 1;
    this.#firstTokenMicros += Math.round(ms * 1000);
  }

  gap(ms: number): void {
    this.#gaps += 1;
    this.#gapMicros += Math.round(ms * 1000);
  }

  get totals(): ServedTotals {
    return {
      requests: this.#requests,
      failed: this.#failed,
      gaps: this.#gaps,
      gapMicros: this.#gapMicros,
      firstTokens: this.#firstTokens,
      firstTokenMicros: this.#firstTokenMicros,
    };
  }
}
