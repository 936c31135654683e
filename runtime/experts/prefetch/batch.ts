// batch: what the whole batch chose, for all later layers at once (Read-ME), where one router chooses for all layers.
import { expertsIn } from "../../placement/grid.ts";
import type { PredictorKind } from "./predictor.ts";

export const batch: PredictorKind = {
  about: "the batch's own choice, for models whose layers share one router",
  oneRouter: true,
  create: ({ grid }) => ({
    observe() {},
    scores({ ids }, layer) {
      const out = new Float64Array(expertsIn(grid, layer));
      for (const expert of ids) if (expert < out.length) out[expert] = (out[expert] as number) + 1;
      return out;
    },
  }),
};
