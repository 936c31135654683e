// Steps that were given and have not ended, and requests that leave with their end, pure.
import type { FinishReason } from "./request.ts";
import { decodesOf, idsOf, type Step } from "./step-plan.ts";

export type LeaveReason = FinishReason | "failed" | "unusable";

export class RunningSteps {
  readonly #steps = new Set<Step>();
  readonly #leaving = new Map<string, LeaveReason>();

  get none(): boolean {
    return this.#steps.size === 0;
  }

  add(step: Step): void {
    this.#steps.add(step);
  }

  ended(step: Step): void {
    this.#steps.delete(step);
  }

  /** The request's slot may not change now: a step computes it, or one that decodes reads the slots as they are. */
  need(id: string, decodes: boolean): boolean {
    return [...this.#steps].some((step) => idsOf(step).includes(id) || (decodes && decodesOf(step) > 0));
  }

  leaveLater(id: string, reason: LeaveReason): void {
    this.#leaving.set(id, reason);
  }

  takeLeaving(): readonly (readonly [string, LeaveReason])[] {
    const leaving = [...this.#leaving];
    this.#leaving.clear();
    return leaving;
  }
}
