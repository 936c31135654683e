// frequency: the experts that were chosen most at a layer, old choices fading. A control for all that look at more.
import { expertsIn } from "../../placement/grid.ts";
import { type PredictorKind, rowsIn, sampledRows } from "./predictor.ts";

/** What is left of a step's weight after the next one: half after 700 steps. */
const kept = 0.999;

export const frequency: PredictorKind = {
  about: "the experts that are chosen most at the layer",
  create({ grid }) {
    const counts = Array.from({ length: grid.layers }, (_, layer) => new Float64Array(expertsIn(grid, layer)));
    return {
      observe(choice) {
        const of = counts[choice.layer] as Float64Array;
        for (let i = 0; i < of.length; i++) of[i] = (of[i] as number) * kept;
        for (const expert of sampledRows(choice, grid).flat()) of[expert] = (of[expert] as number) + 1;
      },
      scores(choice, layer) {
        const of = counts[layer] as Float64Array;
        const sum = of.reduce((a, b) => a + b, 0);
        return of.map((count) => (sum > 0 ? (count * choice.topK * rowsIn(choice)) / sum : 0));
      },
    };
  },
};
