// Replicas planned after the gate from the step's own counts, as LLEP (arXiv 2601.17111): no wrong forecast, but nothing hides the
// transfers.
import type { TrainingPlanner } from "./planner.ts";
import { bestOfHottest } from "./ways.ts";

export const late: TrainingPlanner = {
  late: true,
  hosts: (problem) => bestOfHottest({ ...problem, overlap: 0 }, problem.primaries.length),
};
