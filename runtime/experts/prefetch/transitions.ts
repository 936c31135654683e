// transitions: which experts of a layer came behind which of the layer before (ExpertFlow's counts), learned as rows pass.
import { expertsIn } from "../../placement/grid.ts";
import { PairCounts, pairCountsBytes } from "./pair-counts.ts";
import { layerBefore, ofParts, type PredictorKind, rowsBefore, rowsIn, sampledRows } from "./predictor.ts";

export const transitions: PredictorKind = {
  about: "experts that came behind those of the layer before",
  tableBytes: pairCountsBytes,
  create({ grid }) {
    const counts = new PairCounts(grid);
    const lastOf = ofParts(() => ({ layer: -1, rows: [] as number[][] }));
    return {
      observe(choice) {
        const last = lastOf(choice);
        const rows = sampledRows(choice, grid);
        const follows = last.layer === layerBefore(grid, choice.layer) && last.rows.length === rows.length;
        if (follows) for (const [i, row] of rows.entries()) counts.add(choice.layer, last.rows[i] as number[], row);
        Object.assign(last, { layer: choice.layer, rows });
      },
      scores(choice, layer) {
        const out = new Float64Array(expertsIn(grid, layer));
        const rows = rowsBefore(this, choice, layer, grid);
        for (const row of rows) counts.share(layer, row, (choice.topK * rowsIn(choice)) / rows.length, out);
        return out;
      },
    };
  },
};
