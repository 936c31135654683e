// Rows of the closing table that say how long things took beside what a demo aims at. A slow machine is no fault of the product, so a
// missed aim is told and fails nothing. What is timed is each show's own. Pure.
import type { Result } from "./view.ts";

/** What a run had to make first; nobody knows what a cluster of the user's own has to pull, and there are no aims there. */
export type Machine = "warm" | "cold" | "unknown";

/** The aim for the whole command; on a cold machine programs or the model had to be made. */
const totalMinutesAim = { warm: 5, cold: 10 } as const;

export function aimed(step: string, seconds: number, aimSeconds: number, aim = `${aimSeconds} s`): Result {
  return { step, seconds, ok: true, slow: seconds > aimSeconds, note: `aim: ${aim}` };
}

/** The time from the start of the command until everything was taken down again. */
export function totalRow(seconds: number, machine: Machine): Result {
  if (machine === "unknown") return { step: "Total", seconds, ok: true, note: "" };
  const minutes = totalMinutesAim[machine];
  return aimed("Total", seconds, minutes * 60, `${minutes} min on a ${machine} machine`);
}

/** Steps alone decide: a run in which all held and that was slow ends with 0. */
export function exitCode(results: readonly Result[]): 0 | 1 {
  return results.every(({ ok }) => ok) ? 0 : 1;
}
