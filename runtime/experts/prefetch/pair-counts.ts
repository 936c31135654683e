// Counts of pairs of experts per layer, in which old ones fade: shared by predictors that go by what came behind what.
import type { ExpertGrid } from "../../placement/grid.ts";

/** A row of counts that has reached this is halved. */
const rowMost = 512;
/** Pairs' worth of what an expert is chosen by all, for experts that few pairs begin with. */
const priorPairs = 4;

interface LayerCounts {
  readonly pairs: Float32Array; // [before, experts]
  readonly rows: Float32Array; // [before]
  readonly all: Float32Array; // [experts]
  sum: number;
}

/** 15 MiB for DeepSeek-V3. */
export const pairCountsBytes = ({ layers, experts }: ExpertGrid): number =>
  layers * experts * (experts + 2) * Float32Array.BYTES_PER_ELEMENT;

export class PairCounts {
  readonly #grid: ExpertGrid;
  readonly #layers: (LayerCounts | undefined)[] = [];

  constructor(grid: ExpertGrid) {
    this.#grid = grid;
  }

  add(layer: number, before: readonly number[], after: readonly number[]): void {
    const counts = this.#of(layer);
    const { pairs, rows, all } = counts;
    const { experts } = this.#grid;
    for (const to of after) all[to] = (all[to] as number) + 1;
    for (const from of before) {
      const row = pairs.subarray(from * experts, (from + 1) * experts);
      for (const to of after) row[to] = (row[to] as number) + 1;
      rows[from] = (rows[from] as number) + after.length;
      if ((rows[from] as number) >= rowMost) rows[from] = halve(row);
    }
    counts.sum += after.length;
    if (counts.sum >= rowMost * experts) counts.sum = halve(all);
  }

  /** Adds `weight` in all, by the mean over `before` of what came behind each. */
  share(layer: number, before: readonly number[], weight: number, out: Float64Array): void {
    const { pairs, rows, all, sum } = this.#of(layer);
    const { experts } = this.#grid;
    if (sum === 0) return;
    for (const from of before) {
      const each = weight / (before.length * ((rows[from] as number) + priorPairs));
      for (let to = 0; to < out.length; to++) {
        const pair = pairs[from * experts + to] as number;
        out[to] = (out[to] as number) + each * (pair + (priorPairs * (all[to] as number)) / sum);
      }
    }
  }

  #of(layer: number): LayerCounts {
    const { experts } = this.#grid;
    const found = this.#layers[layer];
    if (found !== undefined) return found;
    const made = {
      pairs: new Float32Array(experts * experts),
      rows: new Float32Array(experts),
      all: new Float32Array(experts),
      sum: 0,
    };
    this.#layers[layer] = made;
    return made;
  }
}

/** Returns the sum. */
function halve(values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    values[i] = (values[i] as number) / 2;
    sum += values[i] as number;
  }
  return sum;
}
