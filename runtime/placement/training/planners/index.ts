// The planners of training by name. To add one: its name in crds/names.ts, its file, and a line here. Pure.
import type { TrainingPlannerName } from "../../../../crds/names.ts";
import { auto } from "./auto.ts";
import { ep } from "./ep.ts";
import { hecate } from "./hecate.ts";
import { late } from "./late.ts";
import type { TrainingPlanner } from "./planner.ts";

const planners: Readonly<Record<TrainingPlannerName, TrainingPlanner>> = { auto, hecate, ep, late };

/** The planner of that name; one that a bench or a test hands in is taken as it is. */
export function trainingPlanner(planner: TrainingPlannerName | TrainingPlanner): TrainingPlanner {
  return typeof planner === "string" ? planners[planner] : planner;
}
