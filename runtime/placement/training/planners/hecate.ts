// Hecate's forecast copies (arXiv 2502.02581): Algorithm 1 on the load of the last steps, with as many experts as come unnoticed,
// and Algorithm 2 for homes. Pure.
import type { TrainingPlanner } from "./planner.ts";
import { shardedHomes } from "./shards.ts";
import { copiesOfHottest } from "./ways.ts";

export const hecate: TrainingPlanner = { late: false, homes: shardedHomes, hosts: (problem) => copiesOfHottest(problem, problem.overlap) };
