// The times that the demo aims at, and the rows of its closing table that say how this run compares. A slow machine is no fault
// of the product, so a missed aim is told and fails nothing. main.ts calls it; on a cluster of the user's own there are no aims,
// since nobody knows what it has to pull. Pure.
import type { Result } from "./view.ts";

const readySecondsAim = 30;
/** The aim for the whole command; on a cold machine programs or the model had to be made. */
const totalMinutesAim = { warm: 5, cold: 15 } as const;
/** The aim for the time from skewed load to a placement near its bound, which a step of its own shows. */
const balancedSecondsAim = 90;

export interface Times {
  /** The time from the start of the command until everything was taken down again. */
  readonly totalSeconds: number;
  /** The time from the apply to Ready; undefined when it did not come to that. */
  readonly readySeconds: number | undefined;
  /** The time from the beginning of skewed load to a balanced placement; undefined when it did not come to that. */
  readonly balancedSeconds: number | undefined;
  readonly machine: "warm" | "cold" | "unknown";
}

/** One row per time that was taken and has an aim; the total has one in any case. */
export function timeRows({ totalSeconds, readySeconds, balancedSeconds, machine }: Times): Result[] {
  if (machine === "unknown") return [{ step: "Total", seconds: totalSeconds, ok: true, note: "" }];
  const rows: Result[] = [];
  // The first start reads programs and model from a cold disk where they were just made.
  if (machine === "warm" && readySeconds !== undefined)
    rows.push(row("Apply to Ready", readySeconds, readySecondsAim, `${readySecondsAim} s`));
  if (balancedSeconds !== undefined)
    rows.push(row("Skewed load to balanced", balancedSeconds, balancedSecondsAim, `${balancedSecondsAim} s`));
  const minutes = totalMinutesAim[machine];
  return [...rows, row("Total", totalSeconds, minutes * 60, `${minutes} min on a ${machine} machine`)];
}

function row(step: string, seconds: number, aimSeconds: number, aim: string): Result {
  return { step, seconds, ok: true, slow: seconds > aimSeconds, note: `aim: ${aim}` };
}

/** Steps alone decide: a run in which all held and that was slow ends with 0. */
export function exitCode(results: readonly Result[]): 0 | 1 {
  return results.every(({ ok }) => ok) ? 0 : 1;
}
