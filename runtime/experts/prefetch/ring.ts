// ring: all experts of the next layers, in their order (SE-MoE), which pays where most of a layer is chosen.
import { expertsIn } from "../../placement/grid.ts";
import type { PredictorKind } from "./predictor.ts";

export const ring: PredictorKind = {
  about: "all experts of the next layers in order",
  whole: true,
  create: ({ grid }) => ({
    observe() {},
    scores(_choice, layer) {
      const experts = expertsIn(grid, layer);
      return new Float64Array(experts).map((_, expert) => 1 - expert / experts);
    },
  }),
};
