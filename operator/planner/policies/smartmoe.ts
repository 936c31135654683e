// SmartMoE's online part (USENIX ATC 2023; its mapping.py): per layer, experts longest first into ranks with an equal
// number of seats; an expert keeps its seat on a tie, and the new primaries are taken only if the worst rank gets lighter.
// No expert replicas, as published.
import { imbalance } from "../../../runtime/placement/imbalance.ts";
import type { PlacementPolicy, PlanInput, PlanOutput } from "../policy.ts";
import { fitsMemory, type Hosts, layerDemand, type Problem, primariesOf, toLayers, toProblem } from "../problem.ts";
import { firstPlan, primariesStay } from "../repair.ts";
import { seats } from "../search/affinity/chain.ts";
import { withinBudget } from "../search/within-budget.ts";

export const smartmoe: PlacementPolicy = {
  name: "smartmoe",
  summary: "experts repacked longest first into equal seats when the worst rank gets lighter (SmartMoE)",
  keepsCurrent: true,
  usesTransitions: false,
  cellsMax: Number.POSITIVE_INFINITY,
  plan: planSmartmoe,
};

function planSmartmoe(input: PlanInput): PlanOutput {
  const problem = toProblem(input.current ? input : { ...input, current: firstPlan(input) });
  const current = problem.current as Hosts;
  let adopted = 0;
  const target = primariesOf(current).map((primaries, l) => {
    const packed = repack(problem, l, primaries);
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

function repack(problem: Problem, layer: number, primaries: readonly (readonly number[])[]): number[][] {
  const { G, speed } = problem;
  const demand = layerDemand(problem, layer);
  const E = demand.length;
  const left = new Array<number>(G).fill(0);
  for (const g of seats(E, G)) left[g] = (left[g] as number) + 1;
  const load = new Float64Array(G);
  const packed: number[][] = Array.from({ length: E }, () => []);
  const level = (g: number): number => ((speed[g] as number) > 0 ? (load[g] as number) / (speed[g] as number) : Number.POSITIVE_INFINITY);
  const order = Array.from(demand, (_, e) => e).sort((a, b) => (demand[b] as number) - (demand[a] as number) || a - b);
  for (const e of order) {
    let best = -1;
    for (let g = 0; g < G; g++) {
      if ((left[g] as number) === 0) continue;
      if (best < 0 || level(g) < level(best) || (level(g) === level(best) && g === primaries[e]?.[0])) best = g;
    }
    packed[e] = [best];
    left[best] = (left[best] as number) - 1;
    load[best] = (load[best] as number) + (demand[e] as number);
  }
  return packed;
}
