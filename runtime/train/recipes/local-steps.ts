// Recipes of worlds that meet after local steps.

import { mul, sub } from "../optimizers/wasm.ts";
import { aboveZero, type Numbers, type Recipe, type RecipeRun, whole } from "./recipe.ts";

const localStepsMax = 10_000;

/** Worlds end and write checkpoints only where they have met. */
function refusesMeeting({ steps: local = 1 }: Numbers, { steps, everySteps, shadow, beside }: RecipeRun): string | undefined {
  if (steps % local !== 0) return `--steps is ${steps}; it must be a multiple of ${local}`;
  if (everySteps % local !== 0) return `--checkpoint-every is ${everySteps}; it must be a multiple of ${local}`;
  if (shadow) return "worlds that meet go on from checkpoints, so that shadows are of no use; leave them out";
  if (beside("spawn") !== undefined) return "--local and --spawn do not go together: give one of them";
  return undefined;
}

/** Worlds meet at the mean of their parameters. */
export const fedavg: Recipe = {
  option: "local",
  numbers: { steps: whole(1, localStepsMax) },
  refuses: refusesMeeting,
  meeting: { begin() {}, send: ({ p }) => p as Float32Array },
};

const round = Math.fround;

type Own = Readonly<Record<"p" | "anchor" | "pull", Float32Array>>;

/**
 * arXiv 2302.10429: each step is pulled to the parameters of the last meeting (lambda), corrected by earlier pulls, and takes its gradient
 * a little uphill (rho).
 */
export const fedspeed: Recipe = {
  option: "local",
  numbers: {
    steps: whole(1, localStepsMax),
    lambda: aboveZero(100),
    rho: { allows: (value) => value >= 0 && value <= 1, must: "from 0 to 1" },
  },
  refuses: refusesMeeting,
  correction: {
    /** The parameters of the last meeting, and the sum of pulls: the paper's prox-corrected gradient. */
    state: ["anchor", "pull"],
    numbers: ["lambda"],
    plain(arrays, i, { lambda = 0 }) {
      const { p, anchor, pull } = arrays as Own;
      return round(round(lambda * round((p[i] as number) - (anchor[i] as number))) - (pull[i] as number));
    },
    code: ({ number, array }) => sub(mul(number("lambda"), sub(array("p"), array("anchor"))), array("pull")),
  },
  radius: ({ rho = 0 }) => round(rho),
  meeting: {
    begin(arrays) {
      const { p, anchor } = arrays as Own;
      anchor.set(p);
    },
    send(arrays, numbers) {
      const { p, anchor, pull } = arrays as Own;
      const lambda = round(numbers.lambda ?? 0);
      return p.map((value, i) => {
        const pulled = round((pull[i] as number) - round(lambda * round(value - (anchor[i] as number))));
        pull[i] = pulled;
        return value - round(pulled / lambda);
      });
    },
  },
};
