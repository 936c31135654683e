// Converts a plan input to the planner's terms and back: active ranks as indexes 0..G-1, bytes free after the staging slot, hosts as
// index lists.
import { type LayerPlan, weightsTotal } from "../../crds/plan.ts";
import { sameRows } from "../../runtime/placement/diff.ts";
import { expertCount, expertsIn } from "../../runtime/placement/grid.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { loadByWeights, quotas, splitEqually, splitLayer } from "../../runtime/placement/split.ts";
import type { ModelShape, PlanInput, RankSpec } from "./policy.ts";

/** hosts[layer][expert] = rank indexes, primary first. */
export type Hosts = number[][][];

/** The max/mean that new weights must gain where hosts stay, since every rank prepares and commits a changed layer. */
const leastSharesGain = 0.01;

export interface Problem {
  readonly input: PlanInput;
  readonly L: number;
  /** The experts of the largest layer, which is the row length of flat arrays. */
  readonly E: number;
  readonly experts: readonly number[];
  readonly total: number;
  readonly G: number;
  readonly ranks: readonly RankSpec[];
  readonly speed: Float64Array;
  /** Resident bytes per rank that a plan may fill: budget minus one staging slot. */
  readonly capacity: Float64Array;
  readonly staging: number;
  readonly slotCap: number;
  /** Hosts on active ranks; undefined before the first plan. */
  readonly current: Hosts | undefined;
  readonly node: Int32Array;
  readonly nodes: number;
}

/** Resident bytes of the largest expert, the size of a staging slot. */
export function stagingBytes(shape: PlanInput["shape"]): number {
  let largest = 0;
  for (const bytes of shape.residentBytes) largest = Math.max(largest, bytes);
  return largest;
}

/** Active ranks become indexes in order; `current` leaves out hosts on others. */
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

function indexed(hosts: readonly number[], index: ReadonlyMap<number, number>): number[] {
  const row: number[] = [];
  for (const rank of hosts) {
    const g = index.get(rank);
    if (g !== undefined) row.push(g);
  }
  return row;
}

/** Forecast selections of one layer, [experts], as a view. */
export function layerDemand(problem: Problem, layer: number): Float64Array {
  const first = layer * problem.E;
  return problem.input.load.subarray(first, first + (problem.experts[layer] as number));
}

/**
 * Recomputes weights from the forecast; a layer without load splits equally. An expert without an active host keeps its row, since a
 * plan names every expert.
 */
export function toLayers(problem: Problem, hosts: Hosts): LayerPlan[] {
  return hosts.map((layer, l) => toLayer(problem, l, layer));
}

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

const whole: readonly number[] = [weightsTotal];

function hostsOf(problem: Problem, row: readonly number[], old: readonly number[] | undefined): readonly number[] {
  const { ranks } = problem;
  if (row.length === 0) return old ?? [];
  if (old !== undefined && old.length === row.length && row.every((g, i) => (ranks[g]?.rank ?? g) === old[i])) return old;
  return row.map((g) => ranks[g]?.rank ?? g);
}

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

export function fitsMemory(problem: Problem, hosts: Hosts): boolean {
  const bytes = usedBytes(problem, hosts).every((used, g) => used <= (problem.capacity[g] as number) + 1e-6);
  return bytes && (problem.slotCap === Number.POSITIVE_INFINITY || hosts.every((layer) => fitsSlots(problem, layer)));
}

function fitsSlots(problem: Problem, layer: Hosts[number]): boolean {
  const slots = new Int32Array(problem.G);
  for (const row of layer) for (const g of row) slots[g] = (slots[g] as number) + 1;
  return slots.every((count) => count <= problem.slotCap);
}

/** Each expert's primary alone; an expert without an active host has an empty row. */
export function primariesOf(hosts: Hosts): Hosts {
  return hosts.map((layer) => layer.map((row) => row.slice(0, 1)));
}

export function someUnhosted(problem: Problem): boolean {
  return problem.current?.some((layer) => layer.some((row) => row.length === 0)) ?? false;
}
