// A layer as a rank runs it: its own micro-batches of a accumulation forward, and backward, which is given what was kept of them and computes the rest
// again. Interface only; dense-layer.ts and moe-layer.ts have it.
import type { KeptRows, KeptValue, TrainableSegment, WeightViews } from "../../compute/training.ts";
import type { Gradients, Values } from "../../kernels/kernel.ts";
import type { Tensor } from "../../kernels/segment.ts";
import type { AccumulationStep } from "../ranks/accumulation-step.ts";
import type { DenseSums } from "./dense-sums.ts";
import type { KeptBudget } from "./kept-budget.ts";

/** What forward leaves for backward. */
export interface LayerPass {
  /** Values of each of the rank's own micro-batches. */
  readonly kept: readonly Values[];
  /** Rows that each expert has in all micro-batches of the accumulation step; empty for a layer without experts. */
  readonly rows: ArrayLike<number>;
  /** Them, and behind them those of free experts, which no rank is sent. */
  readonly choices: ArrayLike<number>;
  /** `dys`: of each own micro-batch, as the results are; `beside`: gradients of kept values, by name, that other losses than the last layer's
   *  give. Adds the micro-batches' gradients of weights to the sums. */
  backward(dys: readonly Float32Array[], beside: readonly Gradients[]): Promise<Float32Array[]>;
}

export interface RankLayer {
  /** `xs`: rows of each own micro-batch of the accumulation step; `room`: for what may be kept beside what backward needs, none where there is no backward. */
  forward(
    accumulation: AccumulationStep,
    xs: readonly Float32Array[],
    budget?: KeptBudget,
  ): Promise<{ readonly ys: Float32Array[]; readonly pass: LayerPass }>;
}

/** Views of what a part reads: parameters, and where backward adds a micro-batch's gradients, which each of `micro-batches` then takes: those of its own
 *  unit, and of tensors that an earlier one has. */
export interface DenseViews {
  readonly weights: WeightViews;
  readonly sums: WeightViews;
  readonly microBatches: readonly DenseSums[];
}

/** A segment of the dense part with its weights. */
export interface DenseBlock extends DenseViews {
  readonly block: TrainableSegment;
}

export function takeMicroBatch({ microBatches }: Pick<DenseViews, "microBatches">, microBatch: number): void {
  for (const sums of microBatches) sums.take(microBatch);
}

export const rowsOf = (data: Float32Array, width: number): Tensor => ({ shape: [data.length / width, width], data });

/** What a call of so many rows kept, and room that it took. */
export interface Kept {
  readonly values: KeptRows;
  readonly floats: number;
}

/** Runs forward, which keeps what it can of so many rows where there is room; what it kept is in the list then. */
export async function keeping<T>(
  { budget, rows, keeps }: { readonly budget: KeptBudget | undefined; readonly rows: number; readonly keeps: number },
  forward: (kept: KeptValue[] | undefined) => Promise<T>,
): Promise<{ readonly found: T; readonly kept: Kept | undefined }> {
  const floats = rows * keeps;
  const kept: KeptValue[] | undefined = floats > 0 && budget?.take(floats) ? [] : undefined;
  const found = await forward(kept);
  return { found, kept: kept && { values: kept, floats } };
}
