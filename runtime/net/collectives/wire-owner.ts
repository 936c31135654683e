// The transport that connections of a rank belong to (wire.ts), as they know it, and how they tell of another rank.
import { AppError } from "../../../crds/common.ts";
import type { Inbox, Traffic } from "./inbox.ts";

export interface WireLimits {
  /** How long a frame is waited for, and a chunk that does not leave. */
  readonly frameMs: number;
  /** Until another rank takes frames, from the first that is for it. */
  readonly reachMs: number;
  /** Without a sign of life. */
  readonly silenceMs: number;
  /** Between two looks at connections, each with a sign of life. */
  readonly lookMs: number;
  /** Bytes of one rank's frames that nobody asked for yet, above which no more are read; twice as many while another of it is awaited. */
  readonly heldBytes: number;
}

export interface Owner {
  readonly limits: WireLimits;
  readonly inbox: Inbox;
  readonly sent: Traffic;
  /** A rank that is gone, or says that the world ends, ends it here too. */
  lost(error: AppError): void;
  /** A rank said that it left. `own`: on the connection that it sends on, so that nothing follows. */
  left(rank: number, own: boolean, error: AppError): void;
}

/** A step that fails with one of these can be made in another world: another rank is at fault, or the way to it. */
export const otherRankCodes: readonly string[] = ["RankLost", "RankSilent", "RankLeft", "PlanMismatch", "FrameBacklog"];

/** Who leaves because all is done. */
export const leftCode = "RankLeft";
/** Who is asked by a later world than its own, which it may come to yet. */
export const behindCode = "WorldBehind";

export function silentRank(rank: number, what: string): AppError {
  const message = `rank ${rank} ${what}; see whether it runs and can be reached, and begin the step again without it`;
  return new AppError(message, { code: "RankSilent", operation: "reaching a rank", retry: "backoff" });
}

export function lostRank(rank: number, why: string): AppError {
  const message = `rank ${rank} is gone: ${why}; begin the step again without it`;
  return new AppError(message, { code: "RankLost", operation: "reaching a rank", retry: "backoff" });
}

/** A connection that stood is gone: by itself, or because of what came on it. */
export function broken(rank: number, reason: AppError | undefined): AppError {
  if (reason === undefined || reason.code === "Unavailable") return lostRank(rank, reason?.message ?? "it ended the connection");
  return new AppError(`rank ${rank} was given up: ${reason.message}`, { code: reason.code, operation: "receiving a frame", cause: reason });
}
