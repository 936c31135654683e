// The training planners by name. A new one is a name in crds/names.ts and a row here.
import type { TrainingPlannerName } from "../../../../crds/names.ts";
import { calibrated, exposedSeconds, type Materialised } from "../../calibrate.ts";
import { imbalance, sum } from "../../imbalance.ts";
import { materialize } from "../../materialize.ts";
import { shardPrimaries } from "../../shard.ts";
import { splitLayer } from "../../split.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "./planner.ts";

const planners: Readonly<Record<TrainingPlannerName, TrainingPlanner>> = {
  /** The default: forecast replicas only where they save more time than their exposed transfers cost. */
  auto: { late: false, primaries: shardedPrimaries, hosts: (problem) => bestOfHottest(problem, problem.primaries.length) },
  /** Hecate (arXiv 2502.02581): Algorithm 1 on the load of the last steps for hidden transfers, Algorithm 2 for primaries. */
  hecate: { late: false, primaries: shardedPrimaries, hosts: (problem) => expertReplicasOfHottest(problem, problem.overlap) },
  /** Expert parallelism without replicas, the baseline. */
  ep: { late: false, hosts: primariesOnly },
  /** Planned after the gate, as LLEP (arXiv 2601.17111): no wrong forecast, but nothing hides the transfers. */
  late: { late: true, hosts: (problem) => bestOfHottest({ ...problem, overlap: 0 }, problem.primaries.length) },
};

/** A planner object of a bench or test is returned as it is. */
export function trainingPlanner(planner: TrainingPlannerName | TrainingPlanner): TrainingPlanner {
  return typeof planner === "string" ? planners[planner] : planner;
}

/** Primaries of all layers by Hecate's Algorithm 2; each rank keeps its number of experts. */
function shardedPrimaries(layers: readonly LayerProblem[]): number[][] {
  const [first] = layers;
  const stay = layers.map(({ primaries }) => primaries.slice());
  if (first === undefined) return stay;
  const experts = Math.max(...stay.map((primaries) => primaries.length));
  const load = new Float64Array(layers.length * experts);
  for (const [layer, problem] of layers.entries()) load.set(Array.from(problem.load), layer * experts);
  const capacity = new Float64Array(first.ranks);
  for (const primary of stay.flat()) capacity[primary] = (capacity[primary] as number) + 1;
  const { ranks, speed, node } = first;
  const bytes = new Float64Array(load.length).fill(1);
  const layerExperts = stay.map((primaries) => primaries.length);
  const top = Math.min(first.overlap, experts);
  return shardPrimaries({ layers: layers.length, experts, layerExperts, ranks, load, bytes, capacity, speed, node, top }) ?? stay;
}

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
function bestOfHottest(problem: LayerProblem, top: number): number[][] {
  const ways: [Materialised, ...Materialised[]] = [wayOf(problem, primariesOnly(problem))];
  for (let count = 1; count <= Math.min(top, problem.primaries.length); count++)
    ways.push(wayOf(problem, expertReplicasOfHottest(problem, count)));
  return calibrated(ways, exposureOf(problem)).hosts;
}
