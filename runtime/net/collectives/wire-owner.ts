// The transport that connections of a rank belong to (wire.ts), as they know it, and how they tell of another rank.
import { AppError } from "../../../crds/common.ts";
import type { FailureLimits } from "../failure-detector.ts";
import type { Inbox, Traffic } from "./inbox.ts";

export interface WireLimits extends FailureLimits {
  /** Milliseconds that a frame is awaited, or a chunk may take to leave. */
  readonly frameMs: number;
  /** Milliseconds until another rank takes frames. */
  readonly reachMs: number;
  /** Bytes of one rank that nobody asked for, above which no more are read; twice as many while another frame of it is awaited. */
  readonly heldBytes: number;
}

export interface Owner {
  readonly limits: WireLimits;
  readonly inbox: Inbox;
  readonly sent: Traffic;
  lost(error: AppError): void;
  /** `own`: on the connection that it sends on, so that nothing follows. */
  left(rank: number, own: boolean, error: AppError): void;
}

/** Another rank is at fault, or the network: the step can be made in another world. */
export const otherRankCodes: readonly string[] = ["RankLost", "RankSilent", "RankLeft", "PlanMismatch", "FrameBacklog"];

/** Who leaves because all is done. */
export const leftCode = "RankLeft";
/** A later world asks a rank that may come to it yet. */
export const behindCode = "WorldBehind";

export function silentRank(rank: number, what: string): AppError {
  const message = `rank ${rank} ${what}; see whether it runs and can be reached, and begin the step again without it`;
  return new AppError(message, { code: "RankSilent", operation: "reaching a rank", retry: "backoff" });
}

export function lostRank(rank: number, why: string): AppError {
  const message = `rank ${rank} is gone: ${why}; begin the step again without it`;
  return new AppError(message, { code: "RankLost", operation: "reaching a rank", retry: "backoff" });
}

export function broken(rank: number, reason: AppError | undefined): AppError {
  if (reason === undefined || reason.code === "Unavailable") return lostRank(rank, reason?.message ?? "it ended the connection");
  return new AppError(`rank ${rank} was given up: ${reason.message}`, { code: reason.code, operation: "receiving a frame", cause: reason });
}
