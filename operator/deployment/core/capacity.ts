// What a deployment's memory allows: concurrent requests, and the least number of ranks. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../../crds/moe-deployment-status.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import { expertCount } from "../../../runtime/placement/grid.ts";
import { expertBudget, leastRanks } from "./memory-fit.ts";
import type { ModelView } from "./world.ts";

/** A number with its derivation as text. */
export interface Reckoned {
  readonly count: number;
  readonly reason: string;
}

/** Requests that run at once on each rank, if their contexts fit; others wait. */
export function requestsPerRank({ runtime }: MoEDeploymentSpec, model: ModelView): Reckoned {
  const { kvSlots: count, kvBytes, kvTokens, maxContext } = model;
  const token = formatBytes(kvBytes / Math.max(1, kvTokens));
  const whole = Math.floor(kvTokens / maxContext);
  const reason =
    `while their contexts take ${kvTokens} tokens together: kvPool ${runtime.kvPool} / ${token} a token; ` +
    `of the whole maxContext ${maxContext}, ${whole}; raise kvPool for more`;
  return { count, reason };
}

/** Undefined where a rank's memory is unknown, or no number of ranks suffices. */
export function rankFloor(spec: MoEDeploymentSpec, model: ModelView, limitBytes: number | undefined): Reckoned | undefined {
  const budget = expertBudget(spec, model, limitBytes);
  const count = budget === undefined ? Infinity : leastRanks(model, budget);
  if (budget === undefined || !Number.isFinite(count)) return undefined;
  const size = formatBytes(Math.max(1, model.largestExpertBytes));
  const reason = `${expertCount(model)} experts need ${formatBytes(model.expertBytes)}; ${formatBytes(budget)} per rank, of which ${size} stage moves`;
  return { count, reason };
}

/** The floor in the status, until a rank reports the model's sizes to a new leader. */
export function rememberedFloor({ expertParallel }: MoEDeploymentStatus): Reckoned | undefined {
  const { leastRanks: count, leastRanksReason: reason } = expertParallel ?? {};
  return count === undefined || reason === undefined ? undefined : { count, reason };
}
