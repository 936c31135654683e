// affinity: experts that neighbouring tokens chose at one layer, from what the last token chose there.
import { expertsIn } from "../../placement/grid.ts";
import { PairCounts, pairCountsBytes } from "./pair-counts.ts";
import { ofParts, type PredictorKind, rowsIn, sampledRows } from "./predictor.ts";

export const affinity: PredictorKind = {
  about: "experts that go with those of the last token at the same layer",
  tableBytes: pairCountsBytes,
  create({ grid }) {
    const counts = new PairCounts(grid);
    const lastOf = ofParts((): (number[][] | undefined)[] => []);
    return {
      observe(choice) {
        const [last, { layer }] = [lastOf(choice), choice];
        const rows = sampledRows(choice, grid);
        const before = last[layer];
        if (before?.length === rows.length) for (const [i, row] of rows.entries()) counts.add(layer, before[i] as number[], row);
        last[layer] = rows;
      },
      scores(choice, layer) {
        const out = new Float64Array(expertsIn(grid, layer));
        const rows = lastOf(choice)[layer] ?? [];
        for (const row of rows) counts.share(layer, row, (choice.topK * rowsIn(choice)) / rows.length, out);
        return out;
      },
    };
  },
};
