// Hecate's Algorithm 2 (arXiv 2502.02581): every expert gets one primary; the hottest, which get replicas anyway, fill the holes. "fix"
// marks deviations.
import { expertsIn } from "./grid.ts";

export interface ShardProblem {
  readonly layers: number;
  readonly experts: number;
  /** The experts of each layer where layers differ; `experts` is then the largest number. */
  readonly layerExperts?: readonly number[];
  readonly ranks: number;
  /** [layers * experts] */
  readonly load: ArrayLike<number>;
  readonly bytes: ArrayLike<number>;
  readonly capacity: ArrayLike<number>;
  readonly speed: ArrayLike<number>;
  readonly node: ArrayLike<number>;
  /** The overlap degree t: the experts per layer that get replicas. */
  readonly top: number;
}

interface Placed {
  readonly primary: number[][];
  readonly used: Float64Array;
}

/** primary[layer][expert] = rank, or undefined when the primaries do not fit. */
export function shardPrimaries(p: ShardProblem): number[][] | undefined {
  const primary = Array.from({ length: p.layers }, (_, layer) => new Array<number>(expertsIn(p, layer)).fill(-1));
  const used = new Float64Array(p.ranks);
  const placed: Placed = { primary, used };
  const orders = Array.from({ length: p.layers }, (_, layer) =>
    Array.from({ length: expertsIn(p, layer) }, (_, e) => e).sort((a, b) => at(p.load, p, layer, b) - at(p.load, p, layer, a) || a - b),
  );
  const heaviest = orders.map((order, layer) => (order.length > p.top ? at(p.load, p, layer, order[p.top] as number) : 0));
  const byWeight = orders.map((_, layer) => layer).sort((a, b) => (heaviest[b] as number) - (heaviest[a] as number) || a - b);
  for (const [n, layer] of byWeight.entries()) {
    const load = new Float64Array(p.ranks);
    for (const expert of (orders[layer] as number[]).slice(p.top)) {
      const rank = lightest(p, { used, load }, at(p.bytes, p, layer, expert), (n + 1) / p.layers);
      if (rank < 0) return undefined;
      put(p, placed, { layer, expert, rank });
      load[rank] = (load[rank] as number) + at(p.load, p, layer, expert);
    }
  }
  return fillHoles(p, placed, orders) ? primary : undefined;
}

/** fix: the hottest come first, where the paper takes any order, so that small experts are left for the last holes. */
function fillHoles(p: ShardProblem, placed: Placed, orders: readonly (readonly number[])[]): boolean {
  const holes = orders.flatMap((order, layer) => order.slice(0, p.top).map((expert) => ({ layer, expert })));
  holes.sort((a, b) => at(p.load, p, b.layer, b.expert) - at(p.load, p, a.layer, a.expert) || a.layer - b.layer || a.expert - b.expert);
  const hotLoad = Array.from({ length: p.layers }, () => new Float64Array(p.ranks));
  for (const { layer, expert } of holes) {
    const hot = hotLoad[layer] as Float64Array;
    const rank = leastHot(p, placed.used, hot, at(p.bytes, p, layer, expert));
    if (rank < 0) return false;
    put(p, placed, { layer, expert, rank });
    hot[rank] = (hot[rank] as number) + at(p.load, p, layer, expert);
  }
  return true;
}

function at(values: ArrayLike<number>, p: ShardProblem, layer: number, expert: number): number {
  return values[layer * p.experts + expert] as number;
}

function put(p: ShardProblem, { primary, used }: Placed, { layer, expert, rank }: Record<"layer" | "expert" | "rank", number>): void {
  (primary[layer] as number[])[expert] = rank;
  used[rank] = (used[rank] as number) + at(p.bytes, p, layer, expert);
}

/**
 * The least loaded rank of the least loaded node in this layer. fix: ranks must keep pace with the placed layers, since none may be
 * full early; ties go to the first rank (the paper's choice costs 0.3 points on bursts).
 */
function lightest(p: ShardProblem, { used, load }: Record<"used" | "load", Float64Array>, bytes: number, pace: number): number {
  const nodes = nodeLevels(p, load);
  const pick = (limit: number): number => {
    let best = -1;
    for (let g = 0; g < p.ranks; g++) {
      if ((p.speed[g] as number) <= 0 || (used[g] as number) + bytes > (p.capacity[g] as number) * limit + 1e-6) continue;
      if (best < 0 || lighter(p, { load, nodes }, g, best)) best = g;
    }
    return best;
  };
  const paced = pick(Math.min(1, pace));
  return paced >= 0 ? paced : pick(1);
}

function nodeLevels(p: ShardProblem, load: Float64Array): Float64Array {
  const loads = new Float64Array(p.ranks);
  const speeds = new Float64Array(p.ranks);
  for (let g = 0; g < p.ranks; g++) {
    const n = p.node[g] as number;
    loads[n] = (loads[n] as number) + (load[g] as number);
    speeds[n] = (speeds[n] as number) + Math.max(0, p.speed[g] as number);
  }
  return loads.map((sum, n) => ((speeds[n] as number) > 0 ? sum / (speeds[n] as number) : 0));
}

function lighter(p: ShardProblem, { load, nodes }: Record<"load" | "nodes", Float64Array>, a: number, b: number): boolean {
  const [m, n] = [p.node[a] as number, p.node[b] as number];
  if (nodes[m] !== nodes[n]) return (nodes[m] as number) < (nodes[n] as number);
  return (load[a] as number) / (p.speed[a] as number) < (load[b] as number) / (p.speed[b] as number);
}

/** fix: a rank with capacity and the least hot load of the layer, then most free bytes, where the paper takes any. */
function leastHot(p: ShardProblem, used: Float64Array, hot: Float64Array, bytes: number): number {
  let best = -1;
  let free = 0;
  let least = 0;
  for (let g = 0; g < p.ranks; g++) {
    const left = (p.capacity[g] as number) - (used[g] as number);
    const speed = p.speed[g] as number;
    if (speed <= 0 || left + 1e-6 < bytes) continue;
    const level = (hot[g] as number) / speed;
    if (best >= 0 && (level > least || (level === least && left <= free))) continue;
    best = g;
    free = left;
    least = level;
  }
  return best;
}
