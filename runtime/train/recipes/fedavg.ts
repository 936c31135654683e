// fedavg: worlds meet at the mean of their parameters.
import { type Numbers, type Recipe, type RecipeRun, whole } from "./recipe.ts";

export const localStepsMax = 10_000;

/** Worlds end and write checkpoints only where they have met. */
export function refusesMeeting({ steps: local = 1 }: Numbers, { steps, everySteps, shadow, beside }: RecipeRun): string | undefined {
  if (steps % local !== 0) return `--steps is ${steps}; it must be a multiple of ${local}`;
  if (everySteps % local !== 0) return `--checkpoint-every is ${everySteps}; it must be a multiple of ${local}`;
  if (shadow) return "worlds that meet go on from checkpoints, so that shadows are of no use; leave them out";
  if (beside("spawn") !== undefined) return "--local and --spawn do not go together: give one of them";
  return undefined;
}

export const fedavg: Recipe = {
  option: "local",
  numbers: { steps: whole(1, localStepsMax) },
  refuses: refusesMeeting,
  meeting: { begin() {}, send: ({ p }) => p as Float32Array },
};
