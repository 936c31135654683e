// The training planners by name. A new one is a name in crds/names.ts and a row here.
import type { TrainingPlannerName } from "../../../../crds/names.ts";
import { shardPrimaries } from "../../shard.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "./planner.ts";
import { bestOfHottest, expertReplicasOfHottest } from "./ways.ts";

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
