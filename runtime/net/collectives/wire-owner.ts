// What connections know of their rank's transport (wire.ts), and the codes by which ranks end.
import { AppError } from "../../../crds/common.ts";
import type { FailureLimits } from "../failure-detector.ts";
import type { Inbox, Traffic } from "./inbox.ts";

export interface WireLimits extends FailureLimits {
  /** Milliseconds to wait for a frame, or to send a chunk. */
  readonly frameMs: number;
  /** Milliseconds until another rank accepts frames. */
  readonly reachMs: number;
  /** Unclaimed bytes of one rank above which reading stops; doubled while another of its frames is awaited. */
  readonly heldBytes: number;
}

export interface Owner {
  readonly limits: WireLimits;
  readonly inbox: Inbox;
  readonly sent: Traffic;
  lost(error: AppError): void;
  /** `own`: on this rank's sending connection, so nothing follows. */
  left(rank: number, own: boolean, error: AppError): void;
}

/** Errors of another rank or the network: the step can be repeated in another world. */
export const otherRankCodes: readonly string[] = ["RankLost", "RankSilent", "RankLeft", "PlanMismatch", "FrameBacklog"];

/** A rank that left because all is done. */
export const leftCode = "RankLeft";
/** A later world meets a rank that may still join it. */
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
