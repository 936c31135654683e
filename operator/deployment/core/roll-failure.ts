// The reason why a roll is taken back, of ranks of a new template (rollout.ts) or of a green deployment (green deployment.ts).
import type { RollbackReason } from "../../../crds/rollout.ts";

export interface RollFailure {
  readonly reason: RollbackReason;
  readonly message: string;
}
