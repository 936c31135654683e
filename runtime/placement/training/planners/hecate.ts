// Hecate's forecast replicas (arXiv 2502.02581): Algorithm 1 on the load of the last steps for hidden transfers, Algorithm 2 for
// primaries.
import type { TrainingPlanner } from "./planner.ts";
import { shardedPrimaries } from "./shards.ts";
import { expertReplicasOfHottest } from "./ways.ts";

export const hecate: TrainingPlanner = {
  late: false,
  primaries: shardedPrimaries,
  hosts: (problem) => expertReplicasOfHottest(problem, problem.overlap),
};
