// Checks that the experts fit the ranks' memory, before any plan and at scale-down.
import { formatBytes } from "../../crds/quantity.ts";
import { sum } from "../../runtime/placement/imbalance.ts";
import type { ModelShape, RankSpec } from "./policy.ts";
import { stagingBytes } from "./problem.ts";

export type Feasibility =
  | { readonly ok: true }
  | { readonly ok: false; readonly reason: "InsufficientExpertMemory"; readonly message: string };

/** Whether one replica of every expert fits the active ranks (resident bytes) beside a staging slot each. A refusal names the remedy. */
export function checkMemory(shape: ModelShape, ranks: readonly RankSpec[]): Feasibility {
  const active = ranks.filter((rank) => rank.state === "active");
  const staging = stagingBytes(shape);
  const need = sum(shape.residentBytes);
  if (active.length === 0) return refuse("no rank is active: raise replicas to at least 1");
  const budgets = active.map((rank) => rank.budgetBytes);
  const usable = sum(budgets.map((budget) => Math.max(0, budget - staging)));
  if (packs(shape, budgets, staging)) return { ok: true };
  const per = Math.min(...budgets);
  const raised = leastMemory(shape, active.length, staging);
  const more = leastReplicas(shape, per, staging);
  const have = budgets.every((budget) => budget === per)
    ? `${active.length} ranks x ${formatBytes(per)} = ${formatBytes(sum(budgets))}`
    : `${active.length} ranks have ${formatBytes(sum(budgets))}`;
  const remedy = `raise memoryPerRank to ${formatBytes(raised, "up")}${more !== undefined && more > active.length ? ` or replicas to ${more}` : ""}, or set experts.oversubscription to Allow`;
  return refuse(
    `experts need ${formatBytes(need)} plus one staging slot of ${formatBytes(staging)} per rank, ${have} (${formatBytes(usable)} usable): ${remedy}`,
  );
}

function leastMemory(shape: ModelShape, ranks: number, staging: number): number {
  const bytes = Math.ceil(sum(shape.residentBytes) / ranks / Math.max(1, staging)) * staging + staging;
  return packs(shape, new Array<number>(ranks).fill(bytes), staging) ? bytes : bytes + staging;
}

function leastReplicas(shape: ModelShape, bytes: number, staging: number): number | undefined {
  const freeBytes = bytes - staging;
  if (freeBytes < staging) return undefined;
  const need = sum(shape.residentBytes);
  const least = Math.ceil(need / Math.max(1, freeBytes));
  const unit = Math.max(1, staging);
  const tried = [least, least + 1, Math.ceil(need / (Math.max(1, Math.floor(freeBytes / unit)) * unit))];
  const found = tried.find((ranks) => packs(shape, new Array<number>(ranks).fill(bytes), staging));
  if (found !== undefined) return found;
  const each = shape.residentBytes.reduce((count, size) => count + (size > 0 ? 1 : 0), 0);
  return Math.min(each, Math.ceil(need / Math.max(1e-9, freeBytes - staging)));
}

function refuse(message: string): Feasibility {
  return { ok: false, reason: "InsufficientExpertMemory", message };
}

/** Largest first into the rank with most space: exact for equal sizes, else at worst one expert per rank too strict. */
function packs(shape: ModelShape, budgets: readonly number[], staging: number): boolean {
  const freeBytes = budgets.map((budget) => budget - staging);
  if (freeBytes.some((bytes) => bytes < -1e-6)) return false;
  const sizes = Float64Array.from(shape.residentBytes).sort().reverse();
  for (const size of sizes) {
    if (size === 0) break;
    let best = 0;
    for (let g = 1; g < freeBytes.length; g++) if ((freeBytes[g] as number) > (freeBytes[best] as number)) best = g;
    if ((freeBytes[best] as number) + 1e-6 < size) return false;
    freeBytes[best] = (freeBytes[best] as number) - size;
  }
  return true;
}
