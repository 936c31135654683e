// random: any experts. The control: what guesses without knowledge are worth.
import { uniform } from "../../kernels/random.ts";
import { expertsIn } from "../../placement/grid.ts";
import type { PredictorKind } from "./predictor.ts";

export const random: PredictorKind = {
  about: "any experts: the control",
  create({ grid, seed = 1 }) {
    const draw = uniform(seed);
    return {
      observe() {},
      scores: (_choice, layer) => new Float64Array(expertsIn(grid, layer)).map(() => Number.MIN_VALUE + draw()),
    };
  },
};
