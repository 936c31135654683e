// Hecate's Algorithm 1 (arXiv 2502.02581): which of a layer's hottest experts get replicas, and where, for t hidden experts and m free
// slots per rank. "fix" marks deviations.

export interface MaterializeProblem {
  readonly load: ArrayLike<number>;
  /** The primary of each expert; an empty row where memory holds none. */
  readonly primaries: readonly (readonly number[])[];
  readonly ranks: number;
  readonly node: ArrayLike<number>;
  readonly free: readonly number[];
  readonly top: number;
}

export function materialize(p: MaterializeProblem): number[][] {
  const hosts = p.primaries.map((row) => row.slice());
  const order = Array.from(p.primaries, (_, e) => e).sort((a, b) => (p.load[b] as number) - (p.load[a] as number) || a - b);
  const top = order.slice(0, p.top);
  const free = p.free.map((slots) => Math.min(slots, top.length));
  if (free.every((slots) => top.length <= slots)) {
    for (const e of top) for (let g = 0; g < p.ranks; g++) give(hosts, free, e, g);
    return hosts;
  }
  const count = proportional(p, top, free);
  for (const [i, e] of top.entries()) spread(p, { hosts, free }, e, count[i] as number);
  fillLeft(p, hosts, free, top);
  return hosts;
}

function give(hosts: number[][], free: number[], expert: number, rank: number): boolean {
  const row = hosts[expert] as number[];
  if (row.includes(rank) || (free[rank] as number) <= 0) return false;
  row.push(rank);
  free[rank] = (free[rank] as number) - 1;
  return true;
}

/** Slots for the top experts in proportion to load. fix: largest remainder, so that all slots are used. */
function proportional(p: MaterializeProblem, top: readonly number[], free: readonly number[]): number[] {
  const slots = free.reduce((a, b) => a + b, 0);
  const total = top.reduce((sum, e) => sum + (p.load[e] as number), 0);
  const exact = top.map((e) => (total > 0 ? (slots * (p.load[e] as number)) / total : 0));
  const count = exact.map((value) => Math.min(p.ranks - 1, Math.floor(value)));
  let left = slots - count.reduce((a, b) => a + b, 0);
  const order = exact.map((value, i) => ({ i, rest: value - Math.floor(value) })).sort((a, b) => b.rest - a.rest || a.i - b.i);
  for (const { i } of order) {
    if (left <= 0) break;
    if ((count[i] as number) >= p.ranks - 1) continue;
    count[i] = (count[i] as number) + 1;
    left--;
  }
  return count;
}

function spread(
  p: MaterializeProblem,
  { hosts, free }: { readonly hosts: number[][]; readonly free: number[] },
  expert: number,
  count: number,
): void {
  for (let n = 0; n < count; n++) {
    const perNode = new Map<number, number>();
    for (let g = 0; g < p.ranks; g++) perNode.set(p.node[g] as number, (perNode.get(p.node[g] as number) ?? 0) + (free[g] as number));
    const has = new Set((hosts[expert] as number[]).map((g) => p.node[g]));
    let best = -1;
    for (let g = 0; g < p.ranks; g++) {
      if ((free[g] as number) <= 0 || (hosts[expert] as number[]).includes(g)) continue;
      if (best < 0 || ahead(g, best)) best = g;
    }
    if (best < 0) return;
    give(hosts, free, expert, best);
    function ahead(a: number, b: number): boolean {
      const lacks = Number(!has.has(p.node[a])) - Number(!has.has(p.node[b]));
      if (lacks !== 0) return lacks > 0;
      const byNode = (perNode.get(p.node[a] as number) ?? 0) - (perNode.get(p.node[b] as number) ?? 0);
      return byNode > 0 || (byNode === 0 && (free[a] as number) > (free[b] as number));
    }
  }
}

/** fix: slots that the proportional rule could not use go to the next hottest experts. */
function fillLeft(p: MaterializeProblem, hosts: number[][], free: number[], top: readonly number[]): void {
  for (const e of top) {
    for (let g = 0; g < p.ranks; g++) if ((p.load[e] as number) / (hosts[e] as number[]).length > 0) give(hosts, free, e, g);
  }
}
