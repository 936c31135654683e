// path: logistic regressions over a token's way so far, trained as rows pass: the experts of the last two layers, and what the same row
// chose at the layer in the step before.
import { type ExpertGrid, expertsIn } from "../../placement/grid.ts";
import { type Choice, layerBefore, ofParts, type PredictorKind, rowsBefore, rowsIn, sampledRows } from "./predictor.ts";

const learningRate = 0.1;
const blocks = 3;
/** Numbers in all: 96 MiB. Larger models get the layer before alone, the largest no more than their own frequencies. */
const numbersMax = 24 * 2 ** 20;

const blocksUsed = ({ layers, experts }: ExpertGrid): number => Math.min(blocks, Math.floor(numbersMax / (layers * experts * experts)));

export const path: PredictorKind = {
  about: "logistic regressions over the token's last experts",
  tableBytes: (grid) => grid.layers * (blocksUsed(grid) * grid.experts + 1) * grid.experts * Float32Array.BYTES_PER_ELEMENT,
  create({ grid }) {
    const { experts } = grid;
    const used = blocksUsed(grid);
    const weights: (Float32Array | undefined)[] = [];
    const rowsOf = ofParts((): (number[][] | undefined)[] => []);
    const weightsOf = (layer: number): Float32Array => (weights[layer] ??= new Float32Array((used * experts + 1) * experts));

    /** Rows of the weights that a token's way picks; the last one is for all tokens. */
    const features = (way: readonly (readonly number[] | undefined)[]): number[] => [
      ...way.slice(0, used).flatMap((ids, block) => (ids ?? []).map((id) => block * experts + id)),
      used * experts,
    ];
    const chances = (layer: number, active: readonly number[], out: Float64Array): Float64Array => {
      const of = weightsOf(layer);
      out.fill(0);
      for (const feature of active)
        for (let e = 0; e < out.length; e++) out[e] = (out[e] as number) + (of[feature * experts + e] as number);
      for (let e = 0; e < out.length; e++) out[e] = 1 / (1 + Math.exp(-(out[e] as number)));
      return out;
    };
    /** With rows of the step before at the layer, and of the second layer before, if they are as many. */
    const wayOf = (choice: Choice, layer: number, before: readonly number[][], row: number) => {
      const known = rowsOf(choice);
      const alike = (at: number) => (known[at]?.length === before.length ? known[at][row] : undefined);
      return features([before[row], alike(layer), alike(layerBefore(grid, layerBefore(grid, layer)))]);
    };

    return {
      observe(choice) {
        const { layer } = choice;
        const rows = sampledRows(choice, grid);
        const known = rowsOf(choice);
        const before = known[layerBefore(grid, layer)];
        const off = new Float64Array(expertsIn(grid, layer));
        const of = weightsOf(layer);
        if (before?.length === rows.length)
          for (const [i, row] of rows.entries()) {
            const active = wayOf(choice, layer, before, i);
            chances(layer, active, off);
            for (const id of row) off[id] = (off[id] as number) - 1;
            for (const feature of active)
              for (let e = 0; e < off.length; e++)
                of[feature * experts + e] = (of[feature * experts + e] as number) - learningRate * (off[e] as number);
          }
        known[layer] = rows;
      },
      scores(choice, layer) {
        const out = new Float64Array(expertsIn(grid, layer));
        const before = rowsBefore(this, choice, layer, grid);
        const each = new Float64Array(out.length);
        const weight = rowsIn(choice) / before.length;
        for (const row of before.keys()) {
          chances(layer, wayOf(choice, layer, before, row), each);
          for (let e = 0; e < out.length; e++) out[e] = (out[e] as number) + weight * (each[e] as number);
        }
        return out;
      },
    };
  },
};
