// The reason why a roll is taken back, of ranks of a new template (rollout.ts) or of a stand-in (stand-in.ts).
export interface RollFailure {
  readonly reason: "Crashing" | "ImageUnavailable" | "ProgressDeadlineExceeded" | "ErrorRateExceeded" | "LatencyExceeded";
  readonly message: string;
}
