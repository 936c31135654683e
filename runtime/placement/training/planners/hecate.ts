// Hecate's forecast copies (arXiv 2502.02581): Algorithm 1 on the load of the last steps, with as many experts as come unnoticed.
// Pure.
import type { TrainingPlanner } from "./planner.ts";
import { copiesOfHottest } from "./ways.ts";

export const hecate: TrainingPlanner = { late: false, hosts: (problem) => copiesOfHottest(problem, problem.overlap) };
