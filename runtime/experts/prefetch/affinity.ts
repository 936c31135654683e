// affinity: experts that neighbouring tokens chose at one layer, from what the last token chose there.
import { expertsIn } from "../../placement/grid.ts";
import { PairCounts } from "./pair-counts.ts";
import { type PredictorKind, rowsIn, sampledRows } from "./predictor.ts";

export const affinity: PredictorKind = {
  about: "experts that go with those of the last token at the same layer",
  create({ grid }) {
    const counts = new PairCounts(grid);
    const last: (number[][] | undefined)[] = [];
    return {
      observe(choice) {
        const { layer } = choice;
        const rows = sampledRows(choice, grid);
        const before = last[layer];
        if (before?.length === rows.length) for (const [i, row] of rows.entries()) counts.add(layer, before[i] as number[], row);
        last[layer] = rows;
      },
      scores(choice, layer) {
        const out = new Float64Array(expertsIn(grid, layer));
        const rows = last[layer] ?? [];
        for (const row of rows) counts.share(layer, row, (choice.topK * rowsIn(choice)) / rows.length, out);
        return out;
      },
    };
  },
};
