// The expert replicas of the Hecate policy: sparse materialisation (Algorithm 1) in the slots that primaries leave free, up to the
// overlap degree, and beyond it by the calibration rule.
import { calibrated, type Materialised, overlapDegree } from "../../../runtime/placement/calibrate.ts";
import { materialize } from "../../../runtime/placement/materialize.ts";
import { type Hosts, layerDemand, type Problem, usedBytes } from "../problem.ts";
import { changeOf } from "../search/ledger.ts";
import { worstOf } from "../search/within-budget.ts";

/** The overlap degree where none is measured; 16 and less are clearly worse. */
const assumedOverlap = 32;
/** fix: expert replicas leave these slots of a rank free, since new primaries arrive before old ones leave. */
const reserve = 3;
const balanced = 1.04;

export interface Reach {
  /** Experts whose transfer is hidden (the paper's t). */
  readonly hidden: number;
  /** Experts that fit in memory: replicas beyond the hidden ones must save more than their transfer costs. */
  readonly most: number;
}

/**
 * fix: the paper's t is what the link can hide. Here the replicas that memory holds cap it, else hot experts fill "holes" and never get
 * replicas; so does a quarter of a layer, so that load still places the rest.
 */
export function reachOf(problem: Problem): Reach {
  const freeSlots = Math.min(expertReplicasPerLayer(problem), problem.E);
  const { timing, shape } = problem.input;
  const placed = Math.min(freeSlots, Math.ceil(problem.E / 4));
  if (!timing) return { hidden: Math.min(assumedOverlap, placed), most: Math.min(assumedOverlap, placed) };
  const overlap = overlapDegree(timing.denseSeconds, timing.bytesPerSecond, largest(shape.storedBytes));
  return { hidden: Math.min(overlap, placed), most: freeSlots };
}

function expertReplicasPerLayer(problem: Problem): number {
  const { L, E, G, capacity, staging, slotCap, total } = problem;
  if (slotCap !== Number.POSITIVE_INFINITY) return Math.max(0, slotCap * G - E);
  const slots = capacity.reduce((n, bytes) => n + (staging > 0 ? Math.max(0, Math.floor(bytes / staging + 1e-9)) : total), 0);
  return Math.max(0, Math.floor((slots - total) / Math.max(1, L)));
}

export function withExpertReplicas(problem: Problem, primaries: Hosts, reach: Reach): Hosts {
  const { timing, shape } = problem.input;
  const free = freeSlots(problem, primaries);
  const bytes = largest(shape.storedBytes);
  return primaries.map((layer, l) => {
    const way = (top: number): Materialised => materialised(problem, l, layer, { free: free[l] as number[], top });
    if (!timing) return way(reach.hidden).hosts;
    const worstNow = worstOf(problem, l, problem.current?.[l] ?? layer);
    return calibrated([way(reach.hidden), ...beyond(reach).map(way)], {
      overlap: overlapDegree(timing.denseSeconds, timing.bytesPerSecond, bytes),
      secondsPerExpertReplica: bytes / Math.max(1, timing.bytesPerSecond),
      secondsPerPoint: (timing.expertSeconds * timing.windows) / worstNow,
    }).hosts;
  });
}

function beyond({ hidden, most }: Reach): number[] {
  const tops: number[] = [];
  for (let more = 1; hidden + more < most; more *= 2) tops.push(hidden + more);
  return most > hidden ? [...tops, most] : tops;
}

function freeSlots(problem: Problem, primaries: Hosts): number[][] {
  const { G, L } = problem;
  const unit = problem.staging;
  const used = usedBytes(problem, primaries);
  const freeSlots = problem.capacity.map((bytes, g) => {
    const free = unit > 0 ? Math.max(0, Math.floor((bytes - (used[g] as number)) / unit + 1e-9)) : problem.total;
    return free - Math.min(reserve, Math.floor(free / 3));
  });
  const given = new Float64Array(G);
  return primaries.map((layer, l) =>
    Array.from({ length: G }, (_, g) => {
      const own = layer.filter((row) => row[0] === g).length;
      if (problem.slotCap !== Number.POSITIVE_INFINITY) return Math.max(0, problem.slotCap - own);
      const slots = Math.max(0, Math.floor(((freeSlots[g] as number) * (l + 1)) / L + 1e-9) - (given[g] as number));
      given[g] = (given[g] as number) + slots;
      return Math.min(slots, layer.length - own);
    }),
  );
}

function materialised(
  problem: Problem,
  l: number,
  primaries: Hosts[number],
  { free, top }: { readonly free: readonly number[]; readonly top: number },
): Materialised {
  const most = Math.min(top, Math.max(0, ...free));
  const hosts = frugal(problem, l, most, (slots) =>
    materialize({
      load: layerDemand(problem, l),
      primaries,
      ranks: problem.G,
      node: problem.node,
      top,
      free: free.map((n) => Math.min(n, slots)),
    }),
  );
  const { arrivals } = changeOf(problem, l, problem.current?.[l] ?? primaries, hosts);
  return { hosts, worst: worstOf(problem, l, hosts), arrivals };
}

/**
 * fix: training remakes every replica each iteration, so it uses all slots. In serving each costs a transfer, so no more slots are used
 * than balance the layer, unless replicas are free.
 */
function frugal(problem: Problem, layer: number, most: number, withSlots: (slots: number) => number[][]): number[][] {
  if (problem.input.gainPerMove === undefined) return withSlots(most);
  let best = withSlots(0);
  let worst = worstOf(problem, layer, best);
  for (let slots = 1; slots <= most && worst > balanced; slots++) {
    const hosts = withSlots(slots);
    const ratio = worstOf(problem, layer, hosts);
    if (ratio >= worst) continue;
    best = hosts;
    worst = ratio;
  }
  return best;
}

function largest(bytes: Float64Array): number {
  return bytes.reduce((most, each) => Math.max(most, each), 0);
}
