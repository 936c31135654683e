// The time left for a call. gRPC's own relative deadline counts; an absolute time that the caller names is used only without one, since
// clocks differ.
import type { Deadline } from "@grpc/grpc-js";

interface Call {
  getDeadline(): Deadline;
}

/** Milliseconds after which gRPC ends a call; the server's own error comes first and says more. */
export const slackMs = { generate: 2_000, prepare: 10_000 } as const;

/** Undefined without a deadline. `namedUnixMs`: 0 if the caller names none. */
export function leftMs(call: Call, namedUnixMs: number, slack: number): number | undefined {
  const carried = Number(call.getDeadline()); // also for a Date
  if (Number.isFinite(carried)) return Math.max(0, carried - slack - Date.now());
  return namedUnixMs === 0 ? undefined : Math.max(0, namedUnixMs - Date.now());
}
