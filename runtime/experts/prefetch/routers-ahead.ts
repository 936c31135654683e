// What routers of later layers say of a layer's rows, as scores: the common part of next-gate and residual.
import { expertsIn } from "../../placement/grid.ts";
import type { AheadInput, PredictorKind } from "./predictor.ts";

export const routersAhead = (asks: AheadInput, about: string): PredictorKind => ({
  about,
  asks,
  create: ({ grid }) => ({
    observe() {},
    scores(choice, layer) {
      const out = new Float64Array(expertsIn(grid, layer));
      const { ids, width } = choice.ahead?.(layer, asks) ?? { ids: new Int32Array(0), width: 1 };
      for (const [at, expert] of ids.entries())
        if (expert < out.length) out[expert] = (out[expert] as number) + 2 ** -((at % width) / choice.topK);
      return out;
    },
  }),
});
