// Hecate's Algorithm 2 (arXiv 2502.02581), heterogeneous sharding: every expert gets one home. A rank holds any number
// of experts per layer and the same number over all layers. Experts that will not be replicated are placed by load; the
// hottest, which Algorithm 1 copies anyway, fill the holes. Pure. Our reading of the paper; deviations are marked "fix".

export interface ShardProblem {
  readonly layers: number;
  readonly experts: number;
  readonly ranks: number;
  /** [layers * experts] */
  readonly load: ArrayLike<number>;
  readonly bytes: ArrayLike<number>;
  /** Bytes per rank for homes. */
  readonly capacity: ArrayLike<number>;
  readonly speed: ArrayLike<number>;
  /** Overlap degree t: so many experts per layer will be copied. */
  readonly top: number;
}

/** home[layer][expert] = rank, or undefined when the homes do not fit. */
export function shardHomes(p: ShardProblem): number[][] | undefined {
  const home = Array.from({ length: p.layers }, () => new Array<number>(p.experts).fill(-1));
  const used = new Float64Array(p.ranks);
  const holes: { layer: number; expert: number }[] = [];
  for (let layer = 0; layer < p.layers; layer++) {
    const order = Array.from({ length: p.experts }, (_, e) => e).sort((a, b) => at(p.load, p, layer, b) - at(p.load, p, layer, a) || a - b);
    const top = order.slice(0, Math.min(p.top, p.experts));
    for (const expert of top) holes.push({ layer, expert });
    const load = new Float64Array(p.ranks);
    for (const expert of order.slice(top.length)) {
      const rank = lightest(p, used, load, at(p.bytes, p, layer, expert), layer);
      if (rank < 0) return undefined;
      put(p, home, used, layer, expert, rank);
      load[rank] = (load[rank] as number) + at(p.load, p, layer, expert);
    }
  }
  // fix: the hottest of the hottest first, so that what is left over are the small ones
  holes.sort((a, b) => at(p.load, p, b.layer, b.expert) - at(p.load, p, a.layer, a.expert) || a.layer - b.layer || a.expert - b.expert);
  const hotLoad = Array.from({ length: p.layers }, () => new Float64Array(p.ranks));
  for (const { layer, expert } of holes) {
    const hot = hotLoad[layer] as Float64Array;
    const rank = leastHot(p, used, hot, at(p.bytes, p, layer, expert));
    if (rank < 0) return undefined;
    put(p, home, used, layer, expert, rank);
    hot[rank] = (hot[rank] as number) + at(p.load, p, layer, expert);
  }
  return home;
}

function at(values: ArrayLike<number>, p: ShardProblem, layer: number, expert: number): number {
  return values[layer * p.experts + expert] as number;
}

function put(p: ShardProblem, home: number[][], used: Float64Array, layer: number, expert: number, rank: number): void {
  (home[layer] as number[])[expert] = rank;
  used[rank] = (used[rank] as number) + at(p.bytes, p, layer, expert);
}

/** Least loaded rank of this layer whose total keeps pace with the layers placed: no rank may be full before the last layer. */
function lightest(p: ShardProblem, used: Float64Array, load: Float64Array, bytes: number, layer: number): number {
  const pace = (layer + 1) / p.layers;
  const pick = (limit: number): number => {
    let best = -1;
    for (let g = 0; g < p.ranks; g++) {
      if ((p.speed[g] as number) <= 0 || (used[g] as number) + bytes > (p.capacity[g] as number) * limit + 1e-6) continue;
      if (best < 0 || (load[g] as number) / (p.speed[g] as number) < (load[best] as number) / (p.speed[best] as number)) best = g;
    }
    return best;
  };
  const paced = pick(Math.min(1, pace));
  return paced >= 0 ? paced : pick(1);
}

/** fix: the paper fills holes in any order; here a rank with room and the least hot load of the layer, then most free bytes. */
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
