// The order in which a plan's layers can change without exceeding any rank's budget, since new replicas arrive before old ones leave.

export interface LayerBytes {
  readonly layer: number;
  readonly incoming: ReadonlyMap<number, number>;
  readonly outgoing: ReadonlyMap<number, number>;
}

export interface Schedule {
  readonly order: readonly number[];
  /** Layers that fit in no order. */
  readonly stuck: readonly number[];
}

/** Budgets may come from other units, so sums are rounded. */
const slack = 1e-6;

/** `used`: bytes per rank before the plan; `budget`: bytes per rank, staging included, unlimited where absent. */
export function scheduleLayers(
  changes: readonly LayerBytes[],
  used: ReadonlyMap<number, number>,
  budget: ReadonlyMap<number, number>,
): Schedule {
  const held = new Map(used);
  let open = changes
    .map((change) => ({ change, growth: growthOf(change) }))
    .sort((a, b) => a.growth - b.growth || a.change.layer - b.change.layer);
  const order: number[] = [];
  for (let taken = true; taken && open.length > 0; ) {
    taken = false;
    const left: typeof open = [];
    for (const entry of open) {
      if (!fits(entry.change, held, budget)) {
        left.push(entry);
        continue;
      }
      for (const [rank, bytes] of entry.change.incoming) held.set(rank, (held.get(rank) ?? 0) + bytes);
      for (const [rank, bytes] of entry.change.outgoing) held.set(rank, (held.get(rank) ?? 0) - bytes);
      order.push(entry.change.layer);
      taken = true;
    }
    open = left;
  }
  return { order, stuck: open.map(({ change }) => change.layer) };
}

function growthOf(change: LayerBytes): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const rank of new Set([...change.incoming.keys(), ...change.outgoing.keys()])) {
    most = Math.max(most, (change.incoming.get(rank) ?? 0) - (change.outgoing.get(rank) ?? 0));
  }
  return most;
}

function fits(change: LayerBytes, held: ReadonlyMap<number, number>, budget: ReadonlyMap<number, number>): boolean {
  for (const [rank, bytes] of change.incoming) {
    if ((held.get(rank) ?? 0) + bytes > (budget.get(rank) ?? Number.POSITIVE_INFINITY) + slack) return false;
  }
  return true;
}
