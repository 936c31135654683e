// Divides slots between layers when memory is the limit. A layer's result with so many slots is found by packing its replicas longest
// first.
import { jointBound, slotsNeeded, sum } from "../../../../runtime/placement/imbalance.ts";
import { layerDemand, type Problem } from "../../problem.ts";

/** Slots that every rank can hold over all layers, in units of the mean expert. */
export function rankWeights(problem: Problem): Float64Array {
  if (problem.slotCap !== Number.POSITIVE_INFINITY) return new Float64Array(problem.G).fill(1);
  const unit = sum(problem.input.shape.residentBytes) / Math.max(1, problem.total);
  return problem.capacity.map((bytes) => (unit > 0 ? Math.max(0, Math.floor(bytes / unit + 1e-9)) : problem.total));
}

/** Packing is tried up to this many slots x ranks; beyond, the bound decides. */
const tryOutMax = 8_000_000;
const curvePoints = 14;
const curveReach = 2.8;
const worstPower = 5;

/** Slots of each layer, [layers], over all ranks: equal under a slot cap, else where they help most. */
export function layerSlots(problem: Problem): number[] {
  const { L, G } = problem;
  if (problem.slotCap !== Number.POSITIVE_INFINITY) return mostSlots(problem).map((slots) => Math.min(slots, G * problem.slotCap));
  const total = Math.min(sum(rankWeights(problem)), problem.total * G);
  const spare = (total - problem.total) / Math.max(1, L);
  if (L > 1 && spare >= 1 && spare < 2 * G && total * G <= tryOutMax) return byTrial(problem, total, spare);
  return byBound(problem, total);
}

function byBound(problem: Problem, total: number): number[] {
  const { L, G } = problem;
  const demands = Array.from({ length: L }, (_, l) => layerDemand(problem, l));
  const ratio = jointBound(demands, G, total);
  const slots = demands.map((demand) => {
    const mean = sum(demand) / G;
    return Number.isFinite(ratio) && mean > 0 ? slotsNeeded(demand, ratio * mean) : demand.length;
  });
  return dealRest(slots, total - sum(slots), mostSlots(problem));
}

const mostSlots = ({ experts, G }: Problem): number[] => experts.map((count) => count * G);

function dealRest(slots: number[], rest: number, most: readonly number[]): number[] {
  let left = rest;
  for (let l = 0; left > 0 && slots.some((n, i) => n < (most[i] as number)); l = (l + 1) % slots.length) {
    if ((slots[l] as number) >= (most[l] as number)) continue;
    slots[l] = (slots[l] as number) + 1;
    left--;
  }
  return slots;
}

interface Segment {
  readonly layer: number;
  readonly slots: number;
  readonly gain: number;
}

/** Takes segments of the convex hulls of all curves, steepest first, until the slots are spent. */
function byTrial(problem: Problem, total: number, spare: number): number[] {
  const { L, G } = problem;
  const step = Math.max(1, Math.round((spare * curveReach) / curvePoints));
  const segments: Segment[] = [];
  for (let l = 0; l < L; l++) {
    const demand = layerDemand(problem, l);
    const E = demand.length;
    const points = Array.from({ length: curvePoints + 1 }, (_, i) => {
      const slots = Math.min(E * G, E + i * step);
      return { slots, cost: packedWorst(demand, G, slots) ** worstPower };
    });
    for (const segment of hull(points)) segments.push({ layer: l, ...segment });
  }
  segments.sort((a, b) => b.gain / b.slots - a.gain / a.slots || a.layer - b.layer);
  const slots = problem.experts.slice();
  let left = total - problem.total;
  for (const segment of segments) {
    const given = Math.min(left, segment.slots);
    slots[segment.layer] = (slots[segment.layer] as number) + given;
    left -= given;
  }
  return dealRest(slots, left, mostSlots(problem));
}

function hull(points: readonly { readonly slots: number; readonly cost: number }[]): { slots: number; gain: number }[] {
  const segments: { slots: number; gain: number }[] = [];
  for (let i = 0; i < points.length - 1; ) {
    const from = points[i] as { slots: number; cost: number };
    let best = -1;
    let steepest = 0;
    for (let j = i + 1; j < points.length; j++) {
      const to = points[j] as { slots: number; cost: number };
      const slope = to.slots > from.slots ? (from.cost - to.cost) / (to.slots - from.slots) : 0;
      if (slope > steepest) {
        steepest = slope;
        best = j;
      }
    }
    if (best < 0) break;
    const to = points[best] as { slots: number; cost: number };
    segments.push({ slots: to.slots - from.slots, gain: from.cost - to.cost });
    i = best;
  }
  return segments;
}

function packedWorst(demand: Float64Array, ranks: number, slots: number): number {
  const mean = sum(demand) / ranks;
  if (mean === 0) return 1;
  const count = replicaCounts(demand, slots, ranks, 1);
  const pieces = new Float64Array(sum(count));
  let n = 0;
  for (let e = 0; e < demand.length; e++)
    for (let i = 0; i < (count[e] as number); i++) pieces[n++] = (demand[e] as number) / (count[e] as number);
  pieces.sort();
  const base = Math.floor(slots / ranks);
  const load = new Float64Array(ranks);
  // Ranks with fewer places come first: at equal load they get the longer piece.
  const freeSlots = Int32Array.from({ length: ranks }, (_, g) => (g < ranks - (slots - base * ranks) ? base : base + 1));
  for (let i = n - 1; i >= 0; i--) {
    let best = -1;
    for (let g = 0; g < ranks; g++)
      if ((freeSlots[g] as number) > 0 && (best < 0 || (load[g] as number) < (load[best] as number))) best = g;
    if (best < 0) break;
    load[best] = (load[best] as number) + (pieces[i] as number);
    freeSlots[best] = (freeSlots[best] as number) - 1;
  }
  return load.reduce((a, b) => Math.max(a, b), 0) / mean;
}

/** Replicas per expert: minExpertReplicas each, then one more where load per replica is highest. */
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
