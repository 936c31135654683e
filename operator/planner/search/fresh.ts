// A placement from nothing: slots dealt to layers by need, replicas by load, then longest-processing-time packing.
// It ignores what is hosted now; callers improve it afterwards. Pure and deterministic.
import { jointBound, slotsNeeded, sum } from "../../../runtime/placement/imbalance.ts";
import { type Hosts, layerDemand, type Problem } from "../problem.ts";

export function freshHosts(problem: Problem): Hosts | undefined {
  const slots = layerSlots(problem);
  const used = new Float64Array(problem.G);
  const given = new Float64Array(problem.G);
  const wanted = new Float64Array(problem.G);
  const weight = rankWeights(problem);
  const hosts: Hosts = [];
  for (let l = 0; l < problem.L; l++) {
    const caps = rankCaps(problem, slots[l] as number, weight, given, wanted);
    const layer = packLayer(problem, l, caps, slots[l] as number, used);
    if (!layer) return undefined;
    hosts.push(layer);
  }
  return hosts;
}

/** Slots that every rank can hold over all layers, in units of the mean expert. */
function rankWeights(problem: Problem): Float64Array {
  if (problem.slotCap !== Number.POSITIVE_INFINITY) return new Float64Array(problem.G).fill(1);
  const unit = sum(problem.input.shape.residentBytes) / Math.max(1, problem.L * problem.E);
  return problem.capacity.map((bytes) => (unit > 0 ? Math.max(0, Math.floor(bytes / unit + 1e-9)) : problem.L * problem.E));
}

/** Slots per layer: as many as brings all layers to one common ratio of slot load to mean, the rest where it is highest. */
export function layerSlots(problem: Problem): number[] {
  const { L, E, G } = problem;
  if (problem.slotCap !== Number.POSITIVE_INFINITY) return new Array<number>(L).fill(Math.min(E * G, G * problem.slotCap));
  const total = Math.min(sum(rankWeights(problem)), L * E * G);
  const demands = Array.from({ length: L }, (_, l) => layerDemand(problem, l));
  const ratio = jointBound(demands, G, total);
  const slots = demands.map((demand) => {
    const mean = sum(demand) / G;
    return Number.isFinite(ratio) && mean > 0 ? slotsNeeded(demand, ratio * mean) : E;
  });
  let left = total - sum(slots);
  for (let l = 0; left > 0 && slots.some((n) => n < E * G); l = (l + 1) % L) {
    if ((slots[l] as number) >= E * G) continue;
    slots[l] = (slots[l] as number) + 1;
    left--;
  }
  return slots;
}

/** Deals a layer's slots to ranks so that each rank's running total follows its weight. */
function rankCaps(problem: Problem, slots: number, weight: Float64Array, given: Float64Array, wanted: Float64Array): number[] {
  const { G, E } = problem;
  if (problem.slotCap !== Number.POSITIVE_INFINITY) return new Array<number>(G).fill(problem.slotCap);
  const all = sum(weight);
  for (let g = 0; g < G; g++) wanted[g] = (wanted[g] as number) + (all > 0 ? (slots * (weight[g] as number)) / all : 0);
  const caps = Array.from({ length: G }, (_, g) => Math.max(0, Math.min(E, Math.floor((wanted[g] as number) - (given[g] as number)))));
  let left = slots - sum(caps);
  const order = Array.from({ length: G }, (_, g) => g).sort((a, b) => rest(b) - rest(a) || a - b);
  function rest(g: number): number {
    return (wanted[g] as number) - (given[g] as number) - (caps[g] as number);
  }
  for (let i = 0; left > 0 && i < 2 * G; i++) {
    const g = order[i % G] as number;
    if ((caps[g] as number) >= E) continue;
    caps[g] = (caps[g] as number) + 1;
    left--;
  }
  for (let g = 0; g < G; g++) given[g] = (given[g] as number) + (caps[g] as number);
  return caps;
}

/** Copies per expert: minCopies each, then one more where load per copy is highest. */
export function replicaCounts(demand: ArrayLike<number>, slots: number, ranks: number, least: number): number[] {
  const count = Array.from({ length: demand.length }, () => Math.min(ranks, Math.max(1, least)));
  if (sum(count) > slots) count.fill(1);
  const heap = Array.from({ length: demand.length }, (_, e) => e);
  const load = (e: number): number => ((count[e] as number) < ranks ? (demand[e] as number) / (count[e] as number) : -1);
  heap.sort((a, b) => load(b) - load(a) || a - b);
  for (let left = slots - sum(count); left > 0; left--) {
    const top = heap[0] as number;
    if (load(top) <= 0) break;
    count[top] = (count[top] as number) + 1;
    sink(heap, load);
  }
  return count;
}

function sink(heap: number[], load: (e: number) => number): void {
  let i = 0;
  for (;;) {
    const left = 2 * i + 1;
    if (left >= heap.length) return;
    const right = left + 1;
    const child = right < heap.length && before(heap[right] as number, heap[left] as number, load) ? right : left;
    if (!before(heap[child] as number, heap[i] as number, load)) return;
    const swap = heap[i] as number;
    heap[i] = heap[child] as number;
    heap[child] = swap;
    i = child;
  }
}

function before(a: number, b: number, load: (e: number) => number): boolean {
  const difference = load(a) - load(b);
  return difference > 0 || (difference === 0 && a < b);
}

function packLayer(problem: Problem, layer: number, caps: number[], slots: number, used: Float64Array): number[][] | undefined {
  const demand = layerDemand(problem, layer);
  const count = replicaCounts(demand, Math.max(problem.E, slots), problem.G, problem.input.minCopies);
  const pieces = count.flatMap((n, e) => Array.from({ length: n }, (_, i) => ({ e, rows: (demand[e] as number) / n, home: i === 0 })));
  pieces.sort((a, b) => b.rows - a.rows || Number(b.home) - Number(a.home) || a.e - b.e);
  const hosts: number[][] = Array.from({ length: problem.E }, () => []);
  const load = new Float64Array(problem.G);
  // Homes still to come keep their slots: a copy is placed only while slots remain for them.
  let room = sum(caps);
  let homes = problem.E;
  for (const { e, rows, home } of pieces) {
    if (!home && room <= homes) continue;
    const bytes = problem.input.shape.residentBytes[layer * problem.E + e] as number;
    const row = hosts[e] as number[];
    const g = place(problem, row, bytes, load, caps, used) ?? (home ? place(problem, row, bytes, load, undefined, used) : undefined);
    if (home) homes--;
    if (g === undefined) {
      if (row.length > 0 || !home) continue;
      return undefined;
    }
    row.push(g);
    room--;
    caps[g] = (caps[g] as number) - 1;
    load[g] = (load[g] as number) + rows;
    used[g] = (used[g] as number) + bytes;
  }
  return hosts;
}

function place(
  problem: Problem,
  row: readonly number[],
  bytes: number,
  load: Float64Array,
  caps: readonly number[] | undefined,
  used: Float64Array,
): number | undefined {
  let best: number | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (let g = 0; g < problem.G; g++) {
    const speed = problem.speed[g] as number;
    if (speed <= 0 || row.includes(g) || (caps && (caps[g] as number) <= 0)) continue;
    if (!caps && problem.slotCap !== Number.POSITIVE_INFINITY) continue;
    if ((used[g] as number) + bytes > (problem.capacity[g] as number) + 1e-6) continue;
    const level = (load[g] as number) / speed;
    if (level < least) {
      least = level;
      best = g;
    }
  }
  return best;
}
