// Expert parallelism: no expert replicas. The baseline of all others.
import { primariesOnly, type TrainingPlanner } from "./planner.ts";

export const ep: TrainingPlanner = { late: false, hosts: primariesOnly };
