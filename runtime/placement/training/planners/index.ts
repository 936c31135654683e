// The planners of training by name. To add one: its file, and a line here. Pure.
import { auto } from "./auto.ts";
import { ep } from "./ep.ts";
import { exact } from "./exact.ts";
import { fastermoe } from "./fastermoe.ts";
import { flexmoe } from "./flexmoe.ts";
import { hecate } from "./hecate.ts";
import { late } from "./late.ts";
import type { TrainingPlanner } from "./planner.ts";
import { smartmoe } from "./smartmoe.ts";

const planners = { auto, hecate, ep, fastermoe, smartmoe, flexmoe, late, exact } as const satisfies Readonly<
  Record<string, TrainingPlanner>
>;
export type TrainingPlannerName = keyof typeof planners;
export const trainingPlannerNames = Object.keys(planners) as readonly TrainingPlannerName[];

export function trainingPlanner(name: TrainingPlannerName): TrainingPlanner {
  return planners[name];
}
