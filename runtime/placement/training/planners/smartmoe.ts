// SmartMoE's mapping (thu-pacman/SmartMoE-AE, mapping.py): no copies; experts move to other homes with their state, the heaviest first to
// the least loaded rank that has a seat, if that lowers the highest load. Pure.
import { homesOnly, type LayerProblem, type TrainingPlanner } from "./planner.ts";

function highest({ load, ranks, speed }: LayerProblem, homes: readonly number[]): number {
  const loads = new Float64Array(ranks);
  for (const [expert, home] of homes.entries()) loads[home] = (loads[home] as number) + (load[expert] as number) / (speed[home] as number);
  return loads.reduce((a, b) => Math.max(a, b), 0);
}

/** Each rank keeps as many experts of the layer as it has. */
function mapped(problem: LayerProblem): number[] {
  const { load, ranks, speed } = problem;
  const seats = new Array<number>(ranks).fill(0);
  for (const home of problem.homes) seats[home] = (seats[home] as number) + 1;
  const loads = new Float64Array(ranks);
  const found = problem.homes.slice();
  const order = found.map((_, e) => e).sort((a, b) => (load[b] as number) - (load[a] as number) || a - b);
  for (const expert of order) {
    const old = problem.homes[expert] as number;
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
  return highest(problem, found) < highest(problem, problem.homes) ? found : problem.homes.slice();
}

export const smartmoe: TrainingPlanner = { late: false, homes: (layers) => layers.map(mapped), hosts: homesOnly };
