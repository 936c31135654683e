// The difference of two placements as moves: which (layer, rank, expert) is new, its sources, and what may be dropped.
import type { LayerPlan, Move } from "../../crds/plan.ts";

interface Drop {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
}

export interface PlanDiff {
  readonly moves: readonly Move[];
  readonly drops: readonly Drop[];
  /** Layers whose hosts or weights differ, which need a commit. */
  readonly layers: readonly number[];
}

/** `from` is undefined when nothing is hosted yet; `bytes(layer, expert)` gives stored bytes. */
export function diffPlans(
  from: readonly LayerPlan[] | undefined,
  to: readonly LayerPlan[],
  bytes: (layer: number, expert: number) => number,
): PlanDiff {
  const moves: Move[] = [];
  const drops: Drop[] = [];
  const layers: number[] = [];
  to.forEach((next, layer) => {
    const old = from?.[layer];
    if (!old || !sameLayer(old, next)) layers.push(layer);
    next.hosts.forEach((hosts, expert) => {
      const before = old?.hosts[expert] ?? [];
      if (before === hosts) return;
      for (const rank of hosts) {
        if (!before.includes(rank)) moves.push({ layer, expert, rank, sources: before, bytes: bytes(layer, expert) });
      }
      for (const rank of before) {
        if (!hosts.includes(rank)) drops.push({ layer, expert, rank });
      }
    });
  });
  return { moves, drops, layers };
}

export function sameLayer(a: LayerPlan, b: LayerPlan): boolean {
  return a === b || (sameRows(a.hosts, b.hosts) && sameRows(a.weights, b.weights));
}

export function sameRows(a: readonly (readonly number[])[], b: readonly (readonly number[])[]): boolean {
  return (
    a === b || (a.length === b.length && a.every((row, i) => row.length === b[i]?.length && row.every((cell, j) => cell === b[i]?.[j])))
  );
}

/** `diffPlans(...).moves.length`, but cheap. */
export function countMoves(from: readonly LayerPlan[], to: readonly LayerPlan[]): number {
  let moves = 0;
  to.forEach((next, layer) => {
    const old = from[layer];
    if (old === next) return;
    next.hosts.forEach((hosts, expert) => {
      const before = old?.hosts[expert] ?? [];
      for (const rank of hosts) if (!before.includes(rank)) moves++;
    });
  });
  return moves;
}
