// The capacity of a deployment by the memory of its ranks, with arithmetic that a reader can check: requests that run at once, and the
// least number of ranks. Pure; target.ts scales by it, status.ts and `enodia status` show it.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../../crds/moe-deployment-status.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import { expertCount } from "../../../runtime/placement/grid.ts";
import { expertBudget, leastRanks } from "./memory-fit.ts";
import type { ModelView } from "./world.ts";

/** A number and how it comes about. */
export interface Reckoned {
  readonly count: number;
  readonly reason: string;
}

/** Requests that run at once on each rank, as far as their contexts fit; more of them wait. */
export function requestsPerRank({ runtime }: MoEDeploymentSpec, model: ModelView): Reckoned {
  const { kvSlots: count, kvBytes, kvTokens, maxContext } = model;
  const token = formatBytes(kvBytes / Math.max(1, kvTokens));
  const whole = Math.floor(kvTokens / maxContext);
  const reason =
    `while their contexts take ${kvTokens} tokens together: kvPool ${runtime.kvPool} / ${token} a token; ` +
    `of the whole maxContext ${maxContext}, ${whole}; raise kvPool for more`;
  return { count, reason };
}

/**
 * The least number of ranks that hold a copy of every expert; undefined where neither the spec nor a container limit says how much a
 * rank may hold, or no number is enough.
 */
export function rankFloor(spec: MoEDeploymentSpec, model: ModelView, limitBytes: number | undefined): Reckoned | undefined {
  const budget = expertBudget(spec, model, limitBytes);
  const count = budget === undefined ? Infinity : leastRanks(model, budget);
  if (budget === undefined || !Number.isFinite(count)) return undefined;
  const size = formatBytes(Math.max(1, model.largestExpertBytes));
  const reason = `${expertCount(model)} experts need ${formatBytes(model.expertBytes)}; ${formatBytes(budget)} per rank, of which ${size} stage moves`;
  return { count, reason };
}

/** The floor as the status has it, for as long as no rank of a new leader has told the model's sizes. */
export function rememberedFloor({ expertParallel }: MoEDeploymentStatus): Reckoned | undefined {
  const { leastRanks: count, leastRanksReason: reason } = expertParallel ?? {};
  return count === undefined || reason === undefined ? undefined : { count, reason };
}
