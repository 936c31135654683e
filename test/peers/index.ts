// The policies of others that ours are measured against, for both planes: a policy here is handed in through the interfaces
// PlacementPolicy and TrainingPlanner, as one of a user's own would be.
import { exact, exactTraining } from "./exact.ts";
import { fastermoe, fastermoeTraining } from "./fastermoe.ts";
import { flexmoeTraining } from "./flexmoe.ts";
import { smartmoe, smartmoeTraining } from "./smartmoe.ts";
import { uniform } from "./uniform.ts";

export const peers = { uniform, fastermoe, smartmoe, exact } as const;

export const trainingPeers = {
  fastermoe: fastermoeTraining,
  smartmoe: smartmoeTraining,
  flexmoe: flexmoeTraining,
  exact: exactTraining,
} as const;
