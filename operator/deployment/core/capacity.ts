// What a deployment's memory allows: concurrent requests, and the least number of ranks. Pure.
import { usesDeviceMemory } from "../../../crds/backends.ts";
import { offloadBytes } from "../../../crds/kv-offload.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../../crds/moe-deployment-status.ts";
import { formatBytes, parseQuantity } from "../../../crds/quantity.ts";
import { headroom, processBytes } from "../../../crds/rank-memory.ts";
import { expertCount } from "../../../runtime/placement/grid.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
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
  const pool = `kvPool ${runtime.kvPool ?? `by itself ${formatBytes(kvBytes)}`}`;
  const reason =
    `while their contexts take ${kvTokens} tokens together: ${pool} / ${token} a token; ` +
    `of the whole maxContext ${maxContext}, ${whole}; ${runtime.kvPool === undefined ? "set" : "raise"} kvPool for more`;
  return { count, reason };
}

/** Undefined where a rank's memory is unknown, or no number of ranks suffices. */
export function rankFloor(spec: MoEDeploymentSpec, model: ModelView, limitBytes: number | undefined): Reckoned | undefined {
  const budget = expertBudget(spec, model, limitBytes);
  const count = budget === undefined ? Infinity : leastRanks(model, budget, spec);
  if (budget === undefined || !Number.isFinite(count)) return undefined;
  if (spec.experts.oversubscription === "Allow")
    return { count, reason: "experts.oversubscription is Allow: one rank may serve all experts" };
  const size = formatBytes(Math.max(1, model.largestExpertBytes));
  const reason = `${expertCount(model)} experts need ${formatBytes(model.expertBytes)}; ${formatBytes(budget)} per rank, of which ${size} stage moves`;
  return { count, reason };
}

/** The floor in the status, until a rank reports the model's sizes to a new leader. */
export function rememberedFloor({ expertParallel }: MoEDeploymentStatus): Reckoned | undefined {
  const { leastRanks: count, leastRanksReason: reason } = expertParallel ?? {};
  return count === undefined || reason === undefined ? undefined : { count, reason };
}

export interface Fit {
  readonly fits: boolean;
  readonly message: string;
}

/** Undefined when neither the spec nor a limit sets it. */
export function expertBudget(spec: MoEDeploymentSpec, model: ModelView, limitBytes: number | undefined): number | undefined {
  if (spec.experts.memoryPerRank !== undefined) return parseQuantity(spec.experts.memoryPerRank, "spec.experts.memoryPerRank");
  return limitBytes === undefined
    ? undefined
    : Math.floor(limitBytes * (1 - headroom) - model.denseBytes - model.kvBytes - offloadBytes(spec.runtime));
}

/** One replica of every expert, each rank less its staging slot. Exact for equal sizes. With oversubscription, what a token needs of a layer. */
export function fit(spec: Pick<MoEDeploymentSpec, "experts">, model: ModelView, ranks: number, perRank: number): Fit {
  const message = `experts need ${formatBytes(model.expertBytes)}, ${ranks} ranks x ${formatBytes(perRank)} = ${formatBytes(ranks * perRank)}`;
  const replicas = leastRanks(model, perRank, spec);
  if (ranks > 0 && ranks >= replicas) return { fits: true, message };
  const slot = Math.max(model.largestExpertBytes, 1);
  if (spec.experts.oversubscription === "Allow") {
    const least = formatBytes(leastMemory(model), "up");
    return { fits: false, message: `experts of one token and layer, and a slot of ${formatBytes(slot)}, need memoryPerRank ${least}` };
  }
  const bySlots = (Math.ceil(expertCount(model) / Math.max(ranks, 1)) + 1) * slot;
  const needed = Math.min(bySlots, Math.ceil(model.expertBytes / Math.max(ranks, 1)) + 2 * slot);
  const more = Number.isFinite(replicas) ? ` or replicas to ${replicas}` : "";
  const staging = `one slot of ${formatBytes(slot)} per rank stages moves`;
  return {
    fits: false,
    message: `${message} (${staging}): raise memoryPerRank to ${formatBytes(needed, "up")}${more}, or set experts.oversubscription to Allow`,
  };
}

/** What a token needs of one layer and a slot for what is loaded, or all: with less, a rank that serves more than it holds never rests. */
function leastMemory({ topK, largestExpertBytes, expertBytes }: ModelView): number {
  return Math.min(topK * largestExpertBytes, expertBytes) + Math.max(largestExpertBytes, 1);
}

/** Infinity when no expert fits beside the staging slot. */
function leastRanks(model: ModelView, perRank: number, { experts }: Pick<MoEDeploymentSpec, "experts">): number {
  if (experts.oversubscription === "Allow") return perRank < leastMemory(model) ? Infinity : 1;
  const slot = Math.max(model.largestExpertBytes, 1);
  const slots = Math.floor(perRank / slot) - 1;
  // Where experts differ in size, a rank leaves less unused than the largest one.
  const filled = perRank - 2 * slot;
  return Math.min(
    slots > 0 ? Math.ceil(expertCount(model) / slots) : Infinity,
    filled > 0 ? Math.ceil(model.expertBytes / filled) : Infinity,
  );
}

/** What no rank can start with, known before there is one. The limit does not count the memory of a device, and only a rank knows what Auto takes. */
export function limitRefusals(spec: MoEDeploymentSpec, limitBytes: number | undefined): Refusal[] {
  const { experts, runtime } = spec;
  const kept = offloadBytes(runtime);
  if (kept > 0 && limitBytes !== undefined && kept + processBytes > limitBytes) {
    const message =
      `spec.runtime.kvOffload.memory ${formatBytes(kept)} + ${formatBytes(processBytes)} is above the memory limit ${formatBytes(limitBytes)} ` +
      "of the container runtime: raise the limit, or lower kvOffload.memory";
    return [{ reason: "InsufficientMemoryLimit", message }];
  }
  const mayUseDevice = runtime.deviceExpertMemory === undefined && (usesDeviceMemory(runtime.backend) || runtime.backend === "Auto");
  if (experts.memoryPerRank === undefined || limitBytes === undefined || mayUseDevice) return [];
  const budget = parseQuantity(experts.memoryPerRank, "spec.experts.memoryPerRank");
  if (budget <= limitBytes) return [];
  const least = formatBytes(budget + processBytes, "up");
  const message =
    `spec.experts.memoryPerRank ${formatBytes(budget)} is above the memory limit ${formatBytes(limitBytes)} of the container runtime: ` +
    `raise the limit to at least ${least} and what dense part and kvPool take, or lower memoryPerRank`;
  return [{ reason: "InsufficientMemoryLimit", message }];
}

export function memoryRefusals(
  spec: MoEDeploymentSpec,
  model: ModelView | undefined,
  ranks: number,
  limitBytes: number | undefined,
): Refusal[] {
  if (!model || ranks === 0) return [];
  const budget = expertBudget(spec, model, limitBytes);
  if (budget === undefined) return [];
  const result = fit(spec, model, ranks, budget);
  if (!result.fits) return [{ reason: "InsufficientExpertMemory", message: result.message }];
  const onDevice = model.backends.every(usesDeviceMemory);
  if (onDevice && spec.runtime.deviceExpertMemory === undefined) return []; // the container's limit does not count device memory
  const kept = offloadBytes(spec.runtime);
  const beside = [
    ...(onDevice ? [] : [["dense part", model.denseBytes] as const, ["kvPool", model.kvBytes] as const]),
    ...(kept > 0 ? [["kvOffload.memory", kept] as const] : []),
  ];
  const need = budget + beside.reduce((total, [, bytes]) => total + bytes, 0) + processBytes;
  if (spec.experts.memoryPerRank === undefined || limitBytes === undefined || need <= limitBytes) return [];
  return [
    {
      reason: "InsufficientMemoryLimit",
      message:
        `memoryPerRank ${formatBytes(budget)} + ${beside.map(([name, bytes]) => `${name} ${formatBytes(bytes)} + `).join("")}` +
        `${formatBytes(processBytes)} = ${formatBytes(need, "up")} is above the memory limit ${formatBytes(limitBytes)} of the container runtime: raise the limit or lower memoryPerRank`,
    },
  ];
}
