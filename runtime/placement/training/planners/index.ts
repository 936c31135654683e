// The planners of training by name. To add one: its name in crds/names.ts, its file, and a line here. Pure.
import type { TrainingPlannerName } from "../../../../crds/names.ts";
import { auto } from "./auto.ts";
import { ep } from "./ep.ts";
import { exact } from "./exact.ts";
import { fastermoe } from "./fastermoe.ts";
import { flexmoe } from "./flexmoe.ts";
import { hecate } from "./hecate.ts";
import { late } from "./late.ts";
import type { TrainingPlanner } from "./planner.ts";
import { smartmoe } from "./smartmoe.ts";

const planners: Readonly<Record<TrainingPlannerName, TrainingPlanner>> = {
  auto,
  hecate,
  ep,
  fastermoe,
  smartmoe,
  flexmoe,
  late,
  exact,
};

export function trainingPlanner(name: TrainingPlannerName): TrainingPlanner {
  return planners[name];
}
