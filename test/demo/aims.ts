// What the demo promises of its own time, and whether this run kept it. On the local cluster only: of a user's own nobody knows
// what it has to pull. Pure.
import type { Result } from "./view.ts";

export const readySecondsMax = 30;
/** Of the whole command. Cold: programs or the model had to be made. */
export const totalMinutesMax = { warm: 5, cold: 15 } as const;

export interface Times {
  /** From the start of the command until everything was taken down again. */
  readonly totalSeconds: number;
  /** From the apply to Ready; undefined when it did not come to that. */
  readonly readySeconds: number | undefined;
  readonly machine: "warm" | "cold" | "unknown";
}

/** One row per promise; the total has one in any case. */
export function limits({ totalSeconds, readySeconds, machine }: Times): Result[] {
  const total = { step: "Total", seconds: totalSeconds };
  if (machine === "unknown") return [{ ...total, ok: true, note: "" }];
  const minutes = totalMinutesMax[machine];
  const rows: Result[] = [{ ...total, ok: totalSeconds <= minutes * 60, note: `limit: ${minutes} min on a ${machine} machine` }];
  if (machine === "warm" && readySeconds !== undefined)
    rows.unshift({
      step: "Apply to Ready",
      seconds: readySeconds,
      ok: readySeconds <= readySecondsMax,
      note: `limit: ${readySecondsMax} s`,
    });
  return rows;
}
