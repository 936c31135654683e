// FasterMoE's shadowing (PPoPP 2022; fmoe's shadow_policy.py): primaries stay, and per layer the hottest experts, one after
// the other, get an expert replica on every rank while the modelled latency falls: less load on the worst rank against one more
// broadcast. All ranks or none, as published.

import type { PlacementPolicy, PlanInput, PlanOutput } from "../../operator/planner/policy.ts";
import { type Hosts, layerDemand, type Problem, primariesOf, toLayers, toProblem, usedBytes } from "../../operator/planner/problem.ts";
import { firstPlan } from "../../operator/planner/repair.ts";
import { withinBudget } from "../../operator/planner/search/within-budget.ts";
import { imbalance, sum } from "../../runtime/placement/imbalance.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "../../runtime/placement/training/planners/planner.ts";

/** The cost of broadcasting one expert, as a part of the mean rank's time in a layer: its bytes over the link's speed. */
const shadowCost = 0.02;

export const fastermoe: PlacementPolicy = {
  name: "fastermoe",
  summary: "shadows the hottest experts on every rank while modelled latency falls (FasterMoE)",
  keepsCurrent: true,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planFastermoe,
};

function planFastermoe(input: PlanInput): PlanOutput {
  const problem = toProblem(input.current ? input : { ...input, current: firstPlan(input) });
  const primaries = primariesOf(problem.current as Hosts);
  const used = usedBytes(problem, primaries);
  let shadows = 0;
  const target = primaries.map((layer, l) => {
    const hosts = shadowLayer(problem, l, layer, used);
    shadows += hosts.filter((row, e) => row !== layer[e]).length;
    return hosts;
  });
  const reason = `${shadows} experts shadowed on all ${problem.G} ranks`;
  if (!input.current) return { layers: toLayers(problem, target), reason };
  return { layers: toLayers(problem, withinBudget(problem, target).hosts), reason };
}

/** Takes what it shadows from the free bytes in `used`. */
function shadowLayer(problem: Problem, layer: number, primaries: number[][], used: Float64Array): number[][] {
  const { E, G } = problem;
  const demand = layerDemand(problem, layer);
  const mean = sum(demand) / Math.max(1, G);
  const hosts = primaries.slice();
  const load = new Float64Array(G);
  const slots = new Int32Array(G);
  primaries.forEach((row, e) => {
    for (const g of row) {
      load[g] = (load[g] as number) + (demand[e] as number);
      slots[g] = (slots[g] as number) + 1;
    }
  });
  const hosted = Array.from(demand, (_, e) => e).filter((e) => primaries[e]?.length === 1);
  let latency = imbalance(load, problem.speed);
  for (const e of hottestFirst(hosted, demand)) {
    if (mean === 0 || !fits(problem, { cell: layer * E + e, primary: primaries[e]?.[0] as number }, used, slots)) break;
    const primary = primaries[e]?.[0] as number;
    const rows = demand[e] as number;
    const next = load.map((own, g) => own - (g === primary ? rows : 0) + rows / G);
    const shadowed = imbalance(next, problem.speed) + shadowCost;
    if (shadowed >= latency) break;
    latency = shadowed - shadowCost;
    load.set(next);
    hosts[e] = [primary, ...Array.from({ length: G }, (_, g) => g).filter((g) => g !== primary && (problem.speed[g] as number) > 0)];
    for (const g of hosts[e] as number[]) {
      if (g === primary) continue;
      used[g] = (used[g] as number) + (problem.input.shape.residentBytes[layer * E + e] as number);
      slots[g] = (slots[g] as number) + 1;
    }
  }
  return hosts;
}

function fits(
  problem: Problem,
  { cell, primary }: { readonly cell: number; readonly primary: number },
  used: Float64Array,
  slots: Int32Array,
): boolean {
  const bytes = problem.input.shape.residentBytes[cell] as number;
  for (let g = 0; g < problem.G; g++) {
    if (g === primary || (problem.speed[g] as number) <= 0) continue;
    if ((slots[g] as number) + 1 > problem.slotCap || (used[g] as number) + bytes > (problem.capacity[g] as number) + 1e-6) return false;
  }
  return true;
}

const hottestFirst = (experts: readonly number[], load: ArrayLike<number>): number[] =>
  experts.toSorted((a, b) => (load[b] as number) - (load[a] as number) || a - b);

/** After the gate, while the heaviest of the other experts and the shadows together take less time than before. */
function shadows(problem: LayerProblem): number[][] {
  const { load, ranks, free, seconds } = problem;
  const found = primariesOnly(problem);
  const order = hottestFirst(
    found.map((_, e) => e),
    load,
  );
  const room = free.slice();
  let best = (load[order[0] as number] as number) * seconds.row;
  for (const [before, expert] of order.entries()) {
    const heaviest = load[order[before + 1] as number] ?? 0;
    const time = heaviest * seconds.row + (before + 1) * (seconds.expertReplica + (seconds.busy ?? 0));
    const others = room.map((_, rank) => rank).filter((rank) => rank !== problem.primaries[expert]);
    if (time >= best || others.some((rank) => (room[rank] as number) <= 0)) break;
    best = time;
    for (const rank of others) {
      found[expert]?.push(rank);
      room[rank] = (room[rank] as number) - 1;
    }
  }
  return ranks > 1 ? found : primariesOnly(problem);
}

export const fastermoeTraining: TrainingPlanner = { late: true, hosts: shadows };
