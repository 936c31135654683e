// The default: forecast expert replicas where they save more time than their transfers show, none where the load is even or the link is slow.
// Pure.
import type { TrainingPlanner } from "./planner.ts";
import { shardedPrimaries } from "./shards.ts";
import { bestOfHottest } from "./ways.ts";

export const auto: TrainingPlanner = {
  late: false,
  primaries: shardedPrimaries,
  hosts: (problem) => bestOfHottest(problem, problem.primaries.length),
};
