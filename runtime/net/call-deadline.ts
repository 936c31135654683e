// The time that a call may still take, whatever the clocks of two nodes say. gRPC carries what is left of it, which the server adds to its
// own clock; a point in time that the caller names counts where a call came without, since clocks that differ make it another one.
import type { Deadline } from "@grpc/grpc-js";

interface Call {
  getDeadline(): Deadline;
}

/** Milliseconds after the deadline at which gRPC ends a call: the server's own error tells more. */
export const slackMs = { generate: 2_000, prepare: 10_000 } as const;

/** Undefined where there is no deadline. `namedUnixMs`: 0 where the caller names none. */
export function leftMs(call: Call, namedUnixMs: number, slack: number): number | undefined {
  const carried = Number(call.getDeadline()); // of a Date too
  if (Number.isFinite(carried)) return Math.max(0, carried - slack - Date.now());
  return namedUnixMs === 0 ? undefined : Math.max(0, namedUnixMs - Date.now());
}
