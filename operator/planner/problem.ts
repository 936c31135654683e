// A plan input in the planner's own terms: active ranks as indexes 0..G-1, bytes free after the staging slot, hosts as
// index lists; and the way back to a plan with rank numbers and weights. Pure; every policy starts and ends here.
import { type LayerPlan, weightsTotal } from "../../crds/plan.ts";
import { sameRows } from "../../runtime/placement/diff.ts";
import { expertCount, expertsIn } from "../../runtime/placement/grid.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { loadByWeights, quotas, splitEqually, splitLayer } from "../../runtime/placement/split.ts";
import type { ModelShape, PlanInput, RankSpec } from "./policy.ts";

/** hosts[layer][expert] = rank indexes, primary first. */
export type Hosts = number[][][];

/** max/mean that new weights must gain where hosts stay: a layer that changes is prepared and committed on every rank. */
const leastSharesGain = 0.01;

export interface Problem {
  readonly input: PlanInput;
  readonly L: number;
  /** Cells of a layer in flat arrays: experts of the layer with most. */
  readonly E: number;
  /** Experts of each layer, and of all. */
  readonly experts: readonly number[];
  readonly total: number;
  readonly G: number;
  readonly ranks: readonly RankSpec[];
  /** Speed of each rank, mean 1. */
  readonly speed: Float64Array;
  /** Resident bytes per rank that a plan may fill: budget minus one staging slot. */
  readonly capacity: Float64Array;
  /** Largest resident unit: what one staging slot holds. */
  readonly staging: number;
  readonly slotCap: number;
  /** Hosts of the current plan on active ranks, or undefined at first. */
  readonly current: Hosts | undefined;
  /** Node of each rank, 0 .. nodes - 1. */
  readonly node: Int32Array;
  readonly nodes: number;
}

/** Resident bytes of the largest expert: what one staging slot holds. */
export function stagingBytes(shape: PlanInput["shape"]): number {
  let largest = 0;
  for (const bytes of shape.residentBytes) largest = Math.max(largest, bytes);
  return largest;
}

/** Active ranks become indexes in the order of their numbers; hosts on others are left out of `current`. Refuses nothing. */
export function toProblem(input: PlanInput): Problem {
  const ranks = input.ranks.filter((rank) => rank.state === "active").toSorted((a, b) => a.rank - b.rank);
  const index = new Map(ranks.map((rank, i) => [rank.rank, i]));
  const staging = stagingBytes(input.shape);
  const meanSpeed = ranks.reduce((total, rank) => total + Math.max(0, rank.speed), 0) / Math.max(1, ranks.length);
  const nodes = new Map<string, number>();
  const node = Int32Array.from(ranks, (rank) => {
    const key = `${rank.zone}/${rank.node}`;
    if (!nodes.has(key)) nodes.set(key, nodes.size);
    return nodes.get(key) ?? 0;
  });
  return {
    input,
    L: input.shape.layers,
    E: input.shape.experts,
    experts: Array.from({ length: input.shape.layers }, (_, layer) => expertsIn(input.shape, layer)),
    total: expertCount(input.shape),
    G: ranks.length,
    ranks,
    speed: Float64Array.from(ranks, (rank) => (meanSpeed > 0 ? Math.max(0, rank.speed) / meanSpeed : 1)),
    capacity: Float64Array.from(ranks, (rank) => rank.budgetBytes - staging),
    staging,
    slotCap: input.slotsPerRank ?? Number.POSITIVE_INFINITY,
    current: input.current?.map((layer) => layer.hosts.map((hosts) => indexed(hosts, index))),
    node,
    nodes: nodes.size,
  };
}

/** The loop is for speed: a plan has tens of thousands of rows. */
function indexed(hosts: readonly number[], index: ReadonlyMap<number, number>): number[] {
  const row: number[] = [];
  for (const rank of hosts) {
    const g = index.get(rank);
    if (g !== undefined) row.push(g);
  }
  return row;
}

/** Forecast selections of one layer, [experts]. A view, not a copy. */
export function layerDemand(problem: Problem, layer: number): Float64Array {
  const first = layer * problem.E;
  return problem.input.load.subarray(first, first + (problem.experts[layer] as number));
}

/**
 * Weights are recomputed from the forecast; a layer without load splits equally. An expert that no active rank hosts keeps
 * its row of the current plan: a plan names every expert.
 */
export function toLayers(problem: Problem, hosts: Hosts): LayerPlan[] {
  return hosts.map((layer, l) => toLayer(problem, l, layer));
}

/** One layer of `toLayers`: the old one itself where hosts stay and new weights would gain too little. */
export function toLayer(problem: Problem, l: number, layer: Hosts[number]): LayerPlan {
  const old = problem.input.current?.[l];
  const hosts = layer.map((row, e) => hostsOf(problem, row, old?.hosts[e]));
  const stays = old !== undefined && sameRows(old.hosts, hosts);
  const demand = layerDemand(problem, l);
  const before = stays ? imbalance(loadByWeights(demand, layer, old.weights, problem.G), problem.speed) : Number.POSITIVE_INFINITY;
  if (stays && before <= 1 + leastSharesGain) return old;
  const split = (problem.input.split === "equal" ? splitEqually : splitLayer)({ demand, hosts: layer, speed: problem.speed });
  if (stays && before - imbalance(split.load, problem.speed) <= leastSharesGain) return old;
  const weights = split.rows.map((rows, e) => (rows.length === 1 ? whole : rows.length > 0 ? quotas(rows) : (old?.weights[e] ?? [])));
  return { hosts, weights };
}

/** Weights of an expert with one host: most of a plan, and all the same. */
const whole: readonly number[] = [weightsTotal];

/** Rank numbers of a row; the old row itself where it says the same, or where no active rank is left. */
function hostsOf(problem: Problem, row: readonly number[], old: readonly number[] | undefined): readonly number[] {
  const { ranks } = problem;
  if (row.length === 0) return old ?? [];
  if (old !== undefined && old.length === row.length && row.every((g, i) => (ranks[g]?.rank ?? g) === old[i])) return old;
  return row.map((g) => ranks[g]?.rank ?? g);
}

/** Resident bytes that each rank index hosts. */
export function usedBytes(problem: Problem, hosts: Hosts): Float64Array {
  const used = new Float64Array(problem.G);
  hosts.forEach((layer, l) => {
    layer.forEach((row, e) => {
      const bytes = problem.input.shape.residentBytes[l * problem.E + e] as number;
      for (const g of row) used[g] = (used[g] as number) + bytes;
    });
  });
  return used;
}

/** Resident bytes per rank number of a placement. Counted in an array, since a plan has tens of thousands of rows. */
export function bytesByRank(shape: ModelShape, layers: readonly LayerPlan[]): Map<number, number> {
  const used: number[] = [];
  layers.forEach((layer, l) => {
    layer.hosts.forEach((hosts, e) => {
      for (const rank of hosts) used[rank] = (used[rank] ?? 0) + (shape.residentBytes[l * shape.experts + e] ?? 0);
    });
  });
  const byRank = new Map<number, number>();
  used.forEach((bytes, rank) => {
    byRank.set(rank, bytes);
  });
  return byRank;
}

/** True when a placement keeps to every rank's bytes and slots. */
export function fitsMemory(problem: Problem, hosts: Hosts): boolean {
  const bytes = usedBytes(problem, hosts).every((used, g) => used <= (problem.capacity[g] as number) + 1e-6);
  return bytes && (problem.slotCap === Number.POSITIVE_INFINITY || hosts.every((layer) => fitsSlots(problem, layer)));
}

function fitsSlots(problem: Problem, layer: Hosts[number]): boolean {
  const slots = new Int32Array(problem.G);
  for (const row of layer) for (const g of row) slots[g] = (slots[g] as number) + 1;
  return slots.every((count) => count <= problem.slotCap);
}

/** Each expert's primary alone; an expert that no active rank hosts has an empty row. */
export function primariesOf(hosts: Hosts): Hosts {
  return hosts.map((layer) => layer.map((row) => row.slice(0, 1)));
}

/** True when an expert of the current plan has no host on an active rank: after a loss, memory may hold not all of them. */
export function someUnhosted(problem: Problem): boolean {
  return problem.current?.some((layer) => layer.some((row) => row.length === 0)) ?? false;
}
