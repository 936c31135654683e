// The training planners by name. A new one is a name in crds/names.ts, a file and a line here.
import type { TrainingPlannerName } from "../../../../crds/names.ts";
import { auto } from "./auto.ts";
import { ep } from "./ep.ts";
import { hecate } from "./hecate.ts";
import { late } from "./late.ts";
import type { TrainingPlanner } from "./planner.ts";

const planners: Readonly<Record<TrainingPlannerName, TrainingPlanner>> = { auto, hecate, ep, late };

/** A planner object of a bench or test is returned as it is. */
export function trainingPlanner(planner: TrainingPlannerName | TrainingPlanner): TrainingPlanner {
  return typeof planner === "string" ? planners[planner] : planner;
}
