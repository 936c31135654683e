// Budgets of ranks that may serve more experts than their memory holds: DECISIONS.md 12. Pure.
import { sum } from "../../runtime/placement/imbalance.ts";
import { checkMemory } from "./feasibility.ts";
import type { ModelShape, RankSpec } from "./policy.ts";
import { stagingBytes } from "./problem.ts";

/**
 * Where memory does not hold all experts, a rank's budget becomes its part of all bytes, by its memory, and a slot for what rounding
 * leaves; `memoryBytes` keeps what it has. A rank without memory for one expert beside its staging slot serves none of the rest, and one
 * that was started to hold all of its experts no more than it holds.
 */
export function servedBudgets(shape: ModelShape, ranks: readonly RankSpec[]): readonly RankSpec[] {
  const allowed = ranks.map((rank) => ({ ...rank, memoryBytes: rank.budgetBytes }));
  const staging = stagingBytes(shape);
  const usable = ranks.map(({ state, budgetBytes }) => (state === "active" ? Math.max(0, budgetBytes - staging) : 0));
  const more = usable.map((bytes, i) => (ranks[i]?.holdsAll ? 0 : bytes));
  const all = sum(more);
  if (all < staging || checkMemory(shape, ranks).ok) return allowed;
  const scale = Math.max(0, sum(shape.residentBytes) - (sum(usable) - all)) / all;
  return allowed.map((rank, i) => {
    const share = (more[i] as number) * scale;
    return share > 0 ? { ...rank, budgetBytes: Math.max(rank.budgetBytes, Math.ceil(share + 2 * staging)) } : rank;
  });
}

export const isOversubscribed = (ranks: readonly RankSpec[]): boolean =>
  ranks.some(({ state, budgetBytes, memoryBytes = budgetBytes }) => state === "active" && memoryBytes < budgetBytes);
