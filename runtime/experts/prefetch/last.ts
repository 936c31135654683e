// last: the experts that the last step chose at a layer, behind them those of the steps before.
import { expertsIn } from "../../placement/grid.ts";
import { ofParts, type PredictorKind, sampledRows } from "./predictor.ts";

/** What is left of a step's weight after the next one. */
const kept = 0.25;

export const last: PredictorKind = {
  about: "the experts that the last token chose at the layer",
  create({ grid }) {
    const recentOf = ofParts(() => Array.from({ length: grid.layers }, (_, layer) => new Float64Array(expertsIn(grid, layer))));
    return {
      observe(choice) {
        const scores = recentOf(choice)[choice.layer] as Float64Array;
        for (let i = 0; i < scores.length; i++) scores[i] = (scores[i] as number) * kept;
        for (const expert of sampledRows(choice, grid).flat()) scores[expert] = (scores[expert] as number) + 1;
      },
      scores: (choice, layer) => (recentOf(choice)[layer] as Float64Array).slice(),
    };
  },
};
