// SmartMoE's mapping (thu-pacman/SmartMoE-AE, mapping.py): no expert replicas; experts move to other primaries with their state, the heaviest first to
// the least loaded rank that has a seat, if that lowers the highest load. Pure.
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "./planner.ts";

function highest({ load, ranks, speed }: LayerProblem, primaries: readonly number[]): number {
  const loads = new Float64Array(ranks);
  for (const [expert, primary] of primaries.entries())
    loads[primary] = (loads[primary] as number) + (load[expert] as number) / (speed[primary] as number);
  return loads.reduce((a, b) => Math.max(a, b), 0);
}

/** Each rank keeps as many experts of the layer as it has. */
function mapped(problem: LayerProblem): number[] {
  const { load, ranks, speed } = problem;
  const seats = new Array<number>(ranks).fill(0);
  for (const primary of problem.primaries) seats[primary] = (seats[primary] as number) + 1;
  const loads = new Float64Array(ranks);
  const found = problem.primaries.slice();
  const order = found.map((_, e) => e).sort((a, b) => (load[b] as number) - (load[a] as number) || a - b);
  for (const expert of order) {
    const old = problem.primaries[expert] as number;
    let best = -1;
    for (let rank = 0; rank < ranks; rank++) {
      if ((seats[rank] as number) <= 0) continue;
      const less = best < 0 ? -1 : (loads[rank] as number) - (loads[best] as number);
      if (less < 0 || (less === 0 && rank === old)) best = rank;
    }
    found[expert] = best;
    seats[best] = (seats[best] as number) - 1;
    loads[best] = (loads[best] as number) + (load[expert] as number) / (speed[best] as number);
  }
  return highest(problem, found) < highest(problem, problem.primaries) ? found : problem.primaries.slice();
}

export const smartmoe: TrainingPlanner = { late: false, primaries: (layers) => layers.map(mapped), hosts: primariesOnly };
