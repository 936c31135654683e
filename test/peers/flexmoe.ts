// FlexMoE from its description: while a layer is uneven, the expert with most rows an expert replica gets one more, at the rank with least to do,
// and keeps it if the step becomes shorter by the model of costs. Pure. No code of it is public.

import { secondsOf, wayOf } from "../../runtime/placement/training/planners/index.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "../../runtime/placement/training/planners/planner.ts";

/** max/mean below which nothing is done. */
const uneven = 1.1;

function hosts(problem: LayerProblem): number[][] {
  const { load, ranks, speed } = problem;
  const room = problem.free.slice();
  let way = wayOf(problem, primariesOnly(problem));
  while (way.worst > uneven) {
    const each = way.hosts.map((row, e) => (row.length < ranks ? (load[e] as number) / row.length : -1));
    const expert = each.indexOf(Math.max(...each));
    const row = way.hosts[expert] as number[];
    const rows = new Float64Array(ranks);
    for (const [e, found] of way.hosts.entries())
      for (const rank of found) rows[rank] = (rows[rank] as number) + (load[e] as number) / found.length / (speed[rank] as number);
    const open = room.map((_, rank) => rank).filter((rank) => (room[rank] as number) > 0 && !row.includes(rank));
    if (open.length === 0) break;
    const rank = open.reduce((best, each) => ((rows[each] as number) < (rows[best] as number) ? each : best));
    const next = wayOf(
      problem,
      way.hosts.map((found, e) => (e === expert ? [...found, rank] : found)),
    );
    if (secondsOf(problem, next) >= secondsOf(problem, way)) break;
    room[rank] = (room[rank] as number) - 1;
    way = next;
  }
  return way.hosts;
}

export const flexmoeTraining: TrainingPlanner = { late: false, hosts };
