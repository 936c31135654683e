// FasterMoE's shadows (laekov/fastmoe, fmoe/fastermoe/shadow_policy.py): after the gate, the heaviest experts go to every rank, one
// after another, while the heaviest of the others and the shadows together take less time than before. Pure; room is ours.
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "./planner.ts";

function hosts(problem: LayerProblem): number[][] {
  const { load, ranks, free, seconds } = problem;
  const found = primariesOnly(problem);
  const order = found.map((_, e) => e).sort((a, b) => (load[b] as number) - (load[a] as number) || a - b);
  const room = free.slice();
  let best = (load[order[0] as number] as number) * seconds.row;
  for (const [shadows, expert] of order.entries()) {
    const heaviest = load[order[shadows + 1] as number] ?? 0;
    const time = heaviest * seconds.row + (shadows + 1) * (seconds.expertReplica + (seconds.busy ?? 0));
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

export const fastermoe: TrainingPlanner = { late: true, hosts };
