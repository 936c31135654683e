// Why a roll is rolled back: new ranks (rollout.ts) or a green deployment (blue-green.ts) failed.
import type { RollbackReason } from "../../../crds/rollout.ts";

export interface RollFailure {
  readonly reason: RollbackReason;
  readonly message: string;
}
