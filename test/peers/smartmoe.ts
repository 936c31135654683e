// SmartMoE's online part (USENIX ATC 2023; its mapping.py): per layer, experts longest first into ranks with an equal
// number of seats; an expert keeps its seat on a tie, and the new primaries are taken only if the worst rank gets lighter.
// No expert replicas, as published.

import type { PlacementPolicy, PlanInput, PlanOutput } from "../../operator/planner/policy.ts";
import { fitsMemory, type Hosts, layerDemand, type Problem, primariesOf, toLayers, toProblem } from "../../operator/planner/problem.ts";
import { firstPlan, primariesStay } from "../../operator/planner/repair.ts";
import { withinBudget } from "../../operator/planner/search/within-budget.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "../../runtime/placement/training/planners/planner.ts";

export const smartmoe: PlacementPolicy = {
  name: "smartmoe",
  summary: "experts repacked longest first into equal seats when the worst rank gets lighter (SmartMoE)",
  keepsCurrent: true,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planSmartmoe,
};

function planSmartmoe(input: PlanInput): PlanOutput {
  const problem = toProblem(input.current ? input : { ...input, current: firstPlan(input) });
  const current = problem.current as Hosts;
  let adopted = 0;
  const target = primariesOf(current).map((primaries, l) => {
    const demand = layerDemand(problem, l);
    const old = primaries.map((row) => row[0] as number);
    const packed = repack(demand, problem.speed, evenSeats(demand.length, problem.G), old).map((rank) => [rank]);
    if (worst(problem, l, packed) >= worst(problem, l, primaries) - 1e-9) return primaries;
    adopted++;
    return packed;
  });
  const reason = `${adopted} of ${problem.L} layers are more even when repacked`;
  if (!fitsMemory(problem, target)) return primariesStay(input, "an equal number of experts per rank does not fit the memory");
  if (!input.current) return { layers: toLayers(problem, target), reason };
  return { layers: toLayers(problem, withinBudget(problem, target).hosts), reason };
}

function worst(problem: Problem, layer: number, primaries: readonly (readonly number[])[]): number {
  const load = new Float64Array(problem.G);
  const demand = layerDemand(problem, layer);
  primaries.forEach((row, e) => {
    for (const g of row) load[g] = (load[g] as number) + (demand[e] as number);
  });
  return imbalance(load, problem.speed);
}

/** Longest first into the least loaded rank with a seat left; an expert keeps its rank on a tie. Returns the rank of each expert. */
function repack(demand: ArrayLike<number>, speed: ArrayLike<number>, seats: readonly number[], primaries: readonly number[]): number[] {
  const left = seats.slice();
  const load = new Float64Array(left.length);
  const level = (g: number): number => ((speed[g] as number) > 0 ? (load[g] as number) / (speed[g] as number) : Number.POSITIVE_INFINITY);
  const packed = primaries.slice();
  const order = packed.map((_, e) => e).sort((a, b) => (demand[b] as number) - (demand[a] as number) || a - b);
  for (const e of order) {
    let best = -1;
    for (let g = 0; g < left.length; g++) {
      if ((left[g] as number) <= 0) continue;
      if (best < 0 || level(g) < level(best) || (level(g) === level(best) && g === primaries[e])) best = g;
    }
    packed[e] = best;
    left[best] = (left[best] as number) - 1;
    load[best] = (load[best] as number) + (demand[e] as number);
  }
  return packed;
}

/** An equal number of seats on each rank, those left over spread evenly. */
function evenSeats(experts: number, ranks: number): number[] {
  const seats = new Array<number>(ranks).fill(0);
  for (let n = 0; n < experts; n++) seats[Math.floor((n * ranks) / experts)]!++;
  return seats;
}

function highest({ load, ranks, speed }: LayerProblem, primaries: readonly number[]): number {
  const loads = new Float64Array(ranks);
  for (const [expert, rank] of primaries.entries())
    loads[rank] = (loads[rank] as number) + (load[expert] as number) / (speed[rank] as number);
  return loads.reduce((a, b) => Math.max(a, b), 0);
}

/** Each rank keeps as many experts of the layer as it has. */
function mapped(problem: LayerProblem): number[] {
  const seats = new Array<number>(problem.ranks).fill(0);
  for (const rank of problem.primaries) seats[rank]!++;
  const packed = repack(problem.load, problem.speed, seats, problem.primaries);
  return highest(problem, packed) < highest(problem, problem.primaries) ? packed : problem.primaries.slice();
}

/** In training experts move with their moments. */
export const smartmoeTraining: TrainingPlanner = { late: false, primaries: (layers) => layers.map(mapped), hosts: primariesOnly };
