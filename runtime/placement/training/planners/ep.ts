// Expert parallelism without replicas, the baseline.
import { primariesOnly, type TrainingPlanner } from "./planner.ts";

export const ep: TrainingPlanner = { late: false, hosts: primariesOnly };
