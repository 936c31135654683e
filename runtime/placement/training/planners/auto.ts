// The default: forecast replicas only where they save more time than their exposed transfers cost.
import type { TrainingPlanner } from "./planner.ts";
import { shardedPrimaries } from "./shards.ts";
import { bestOfHottest } from "./ways.ts";

export const auto: TrainingPlanner = {
  late: false,
  primaries: shardedPrimaries,
  hosts: (problem) => bestOfHottest(problem, problem.primaries.length),
};
