// A layer without experts, over a rank's own micro-batches.
import { floats, type Values } from "../../kernels/kernel.ts";
import type { Tensor } from "../../kernels/segment.ts";
import type { AccumulationStep } from "../ranks/accumulation-step.ts";
import { type DenseBlock, type Kept, type KeptBudget, keeping, type LayerPass, type RankLayer, rowsOf, takeMicroBatch } from "./layer.ts";

export class RankDenseLayer implements RankLayer {
  readonly #dense: DenseBlock;
  readonly #hidden: number;

  constructor(dense: DenseBlock, hidden: number) {
    this.#dense = dense;
    this.#hidden = hidden;
  }

  async forward(
    accumulation: AccumulationStep,
    xs: readonly Float32Array[],
    budget?: KeptBudget,
  ): Promise<{ ys: Float32Array[]; pass: LayerPass }> {
    const { block, weights } = this.#dense;
    const ys: Float32Array[] = [];
    const microBatches: DensePass[] = [];
    for (const x of xs) {
      accumulation.checkStop();
      const values = { x: rowsOf(x, this.#hidden) };
      const asked = { budget, rows: x.length / this.#hidden, keeps: block.keeps };
      const { found, kept } = await keeping(asked, (into) => block.forward(values, weights, into));
      ys.push(floats(found.y as Tensor));
      microBatches.push({ values, kept });
    }
    const backward: LayerPass["backward"] = (dys) => this.#backward({ accumulation, budget, microBatches }, dys);
    return { ys, pass: { kept: microBatches.map(({ values }) => values), rows: [], choices: [], backward } };
  }

  async #backward({ accumulation, budget, microBatches }: DensePasses, dys: readonly Float32Array[]): Promise<Float32Array[]> {
    const { block, weights, sums } = this.#dense;
    const dxs: Float32Array[] = [];
    for (const [i, { values, kept }] of microBatches.entries()) {
      accumulation.checkStop();
      const call = { values, kept: kept?.values, outputs: { y: dys[i] as Float32Array }, weights, sums };
      dxs.push((await block.backward(call)).x as Float32Array);
      if (kept) budget?.give(kept.floats);
      takeMicroBatch(this.#dense, accumulation.numberOf(i));
    }
    return dxs;
  }
}

interface DensePass {
  readonly values: Values;
  readonly kept: Kept | undefined;
}

interface DensePasses {
  readonly accumulation: AccumulationStep;
  readonly budget: KeptBudget | undefined;
  readonly microBatches: readonly DensePass[];
}
