// The cost of a way to place replicas in a step, for planners that choose among several.
import { calibrated, exposedSeconds, type Materialised } from "../../calibrate.ts";
import { imbalance, sum } from "../../imbalance.ts";
import { materialize } from "../../materialize.ts";
import { splitLayer } from "../../split.ts";
import { type LayerProblem, primariesOnly } from "./planner.ts";

export function wayOf({ load, speed, ranks }: LayerProblem, hosts: number[][]): Materialised {
  const split = splitLayer({ demand: load, hosts, speed });
  const arrivals = new Float64Array(ranks);
  for (const row of hosts) for (const rank of row.slice(1)) arrivals[rank] = (arrivals[rank] as number) + 1;
  return { hosts, worst: imbalance(split.load, speed), arrivals };
}

const exposureOf = ({ load, ranks, overlap, seconds }: LayerProblem) => ({
  overlap,
  secondsPerExpertReplica: seconds.expertReplica,
  busyPerExpertReplica: seconds.busy ?? 0,
  secondsPerPoint: (sum(load) / ranks) * seconds.row,
});

/** Seconds of a step beyond what every way takes. */
export function secondsOf(problem: LayerProblem, way: Materialised): number {
  const exposure = exposureOf(problem);
  return way.worst * exposure.secondsPerPoint + exposedSeconds(way, exposure);
}

/** Hecate's Algorithm 1 with at most so many experts. */
export function expertReplicasOfHottest({ primaries, load, ranks, node, free }: LayerProblem, top: number): number[][] {
  const most = Math.min(top, primaries.length);
  return materialize({ load, primaries: primariesOnly({ primaries }), ranks, node, free, top: most });
}

/** The best of no replicas and Algorithm 1 with 1 to `top` experts, by the calibration rule. */
export function bestOfHottest(problem: LayerProblem, top: number): number[][] {
  const ways: [Materialised, ...Materialised[]] = [wayOf(problem, primariesOnly(problem))];
  for (let count = 1; count <= Math.min(top, problem.primaries.length); count++)
    ways.push(wayOf(problem, expertReplicasOfHottest(problem, count)));
  return calibrated(ways, exposureOf(problem)).hosts;
}
