// A layer without experts as one rank runs it: its own lanes, one after another, whose gradients join in the tree over lanes.
import type { DenseSums } from "../dense-sums.ts";
import type { DenseLayerPass, Kept } from "../layers.ts";
import type { StepView } from "./moe-layer.ts";

export class RankDenseLayer {
  readonly #pass: DenseLayerPass;
  readonly #sums: DenseSums;
  #kept: Kept[] = [];

  constructor(pass: DenseLayerPass, sums: DenseSums) {
    this.#pass = pass;
    this.#sums = sums;
  }

  async forward(_step: StepView, xs: readonly Float32Array[]): Promise<Float32Array[]> {
    const ys: Float32Array[] = [];
    for (const x of xs) {
      const { y, kept } = await this.#pass.forward(x);
      ys.push(y);
      this.#kept.push(kept);
    }
    return ys;
  }

  async backward({ transport, intervals }: StepView, dys: readonly Float32Array[]): Promise<Float32Array[]> {
    const first = intervals[transport.rank]?.from ?? 0;
    const [kept, dxs]: [readonly Kept[], Float32Array[]] = [this.#kept, []];
    this.#kept = [];
    for (const [i, dy] of dys.entries()) {
      dxs.push(await this.#pass.backward(kept[i] as Kept, dy));
      this.#sums.take(first + i);
    }
    return dxs;
  }
}
