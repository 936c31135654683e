// The times of the serving demo that have an aim: from the apply to Ready, and from skewed load to a placement near its bound. Pure.
import { aimed, type Machine } from "../aims.ts";
import type { Result } from "../view.ts";

const readySecondsAim = 30;
/** A step of its own shows it. */
const balancedSecondsAim = 90;

export interface Times {
  readonly machine: Machine;
  /** The time from the apply to Ready; undefined when it did not come to that. */
  readonly readySeconds?: number | undefined;
  /** The time from the beginning of skewed load to a balanced placement; undefined when it did not come to that. */
  readonly balancedSeconds?: number | undefined;
}

export function timeRows({ machine, readySeconds, balancedSeconds }: Times): Result[] {
  if (machine === "unknown") return [];
  // The first start reads programs and model from a cold disk where they were just made.
  const ready = machine === "warm" && readySeconds !== undefined ? [aimed("Apply to Ready", readySeconds, readySecondsAim)] : [];
  const balanced = balancedSeconds === undefined ? [] : [aimed("Skewed load to balanced", balancedSeconds, balancedSecondsAim)];
  return [...ready, ...balanced];
}
