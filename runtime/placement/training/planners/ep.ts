// Expert parallelism: no copies. The baseline of all others.
import { homesOnly, type TrainingPlanner } from "./planner.ts";

export const ep: TrainingPlanner = { late: false, hosts: homesOnly };
