// Settings of the ranks of the benchmark: those that a job has by itself, at a rate so low that the planted routing stays. Pure.
import { trainingPlannerNames } from "../../../crds/names.ts";
import type { Fssdp } from "../../../runtime/train/ranks/step-plan.ts";
import { trainingPeers } from "../../peers/index.ts";

export const learning = {
  schedule: { name: "constant", rate: 1e-6, warmup: 0, steps: 1, floor: 0 },
  optimizer: { name: "adamw", values: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0 } },
  clip: 1,
} as const;

/** Ours, and the peers that a rank is handed. */
export const plannerNames = [...trainingPlannerNames, ...(Object.keys(trainingPeers) as (keyof typeof trainingPeers)[])] as const;
export type PlannerName = (typeof plannerNames)[number];

const isPeer = (name: PlannerName): name is keyof typeof trainingPeers => Object.hasOwn(trainingPeers, name);

/** All micro-batches at once; rates are measured, by all planners alike. */
export const fssdpFor = (planner: PlannerName, microBatches: number): Fssdp => ({
  planner: isPeer(planner) ? trainingPeers[planner] : planner,
  dispatch: "Exact",
  rematerialize: "Never",
  memorySlots: 4,
  overlapDegree: 2,
  window: 5,
  reshardSteps: 100,
  microBatchesAtOnce: microBatches,
  seconds: { row: 50e-6, expertReplica: 5e-3 },
  measured: true,
});
