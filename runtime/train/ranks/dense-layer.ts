// A layer without experts: a rank's own lanes, one after another, whose gradients join in the tree over lanes.
import { floats, type Values } from "../../kernels/kernel.ts";
import type { Tensor } from "../../kernels/segment.ts";
import { type DenseBlock, type LayerPass, type RankLayer, rowsOf, takeLane } from "./layer.ts";
import type { Wave } from "./wave.ts";

export class RankDenseLayer implements RankLayer {
  readonly #dense: DenseBlock;
  readonly #hidden: number;

  constructor(dense: DenseBlock, hidden: number) {
    this.#dense = dense;
    this.#hidden = hidden;
  }

  async forward(wave: Wave, xs: readonly Float32Array[]): Promise<{ ys: Float32Array[]; pass: LayerPass }> {
    const { block, weights } = this.#dense;
    const [kept, ys]: [Values[], Float32Array[]] = [[], []];
    for (const x of xs) {
      wave.ask();
      const values = { x: rowsOf(x, this.#hidden) };
      ys.push(floats((await block.forward(values, weights)).y as Tensor));
      kept.push(values);
    }
    return { ys, pass: { kept, rows: [], choices: [], backward: (dys) => this.#backward(wave, kept, dys) } };
  }

  async #backward(wave: Wave, kept: readonly Values[], dys: readonly Float32Array[]): Promise<Float32Array[]> {
    const { block, weights, sums } = this.#dense;
    const dxs: Float32Array[] = [];
    for (const [i, values] of kept.entries()) {
      wave.ask();
      dxs.push((await block.backward({ values, outputs: { y: dys[i] as Float32Array }, weights, sums })).x as Float32Array);
      takeLane(this.#dense, wave.lane(i));
    }
    return dxs;
  }
}
