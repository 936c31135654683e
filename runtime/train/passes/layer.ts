// The interface of a layer as a rank runs it; dense-layer.ts and moe-layer.ts implement it. Backward recomputes what forward did not
// store.
import type { KeptRows, KeptValue, TrainableSegment, WeightViews } from "../../compute/training.ts";
import type { Gradients, Values } from "../../kernels/kernel.ts";
import type { Tensor } from "../../kernels/segment.ts";
import type { AccumulationStep } from "../ranks/accumulation-step.ts";
import type { DenseSums } from "./dense-sums.ts";

export interface LayerPass {
  readonly kept: readonly Values[];
  /** Rows of each expert in all micro-batches of the accumulation step; empty without experts. */
  readonly rows: ArrayLike<number>;
  /** `rows`, then those of free experts, which are computed nowhere. */
  readonly choices: ArrayLike<number>;
  /**
   * `dys`: one per own micro-batch; `beside`: gradients of stored values, by name, from other losses. Adds the micro-batches' gradients
   * of weights to the sums.
   */
  backward(dys: readonly Float32Array[], beside: readonly Gradients[]): Promise<Float32Array[]>;
}

export interface RankLayer {
  /** `xs`: rows of each own micro-batch; `room`: capacity for values that spare backward work, none without backward. */
  forward(
    accumulation: AccumulationStep,
    xs: readonly Float32Array[],
    budget?: KeptBudget,
  ): Promise<{ readonly ys: Float32Array[]; readonly pass: LayerPass }>;
}

/**
 * Views of a part's parameters, and of the arrays to which backward adds a micro-batch's gradients: those of its own unit and of an
 * earlier unit's tensors.
 */
export interface DenseViews {
  readonly weights: WeightViews;
  readonly sums: WeightViews;
  readonly microBatches: readonly DenseSums[];
}

export interface DenseBlock extends DenseViews {
  readonly block: TrainableSegment;
}

export function takeMicroBatch({ microBatches }: Pick<DenseViews, "microBatches">, microBatch: number): void {
  for (const sums of microBatches) sums.take(microBatch);
}

export const rowsOf = (data: Float32Array, width: number): Tensor => ({ shape: [data.length / width, width], data });

export interface Kept {
  readonly values: KeptRows;
  readonly floats: number;
}

/** Runs forward, which stores what fits, and appends what it stored to the list. */
export async function keeping<T>(
  { budget, rows, keeps }: { readonly budget: KeptBudget | undefined; readonly rows: number; readonly keeps: number },
  forward: (kept: KeptValue[] | undefined) => Promise<T>,
): Promise<{ readonly found: T; readonly kept: Kept | undefined }> {
  const floats = rows * keeps;
  const kept: KeptValue[] | undefined = floats > 0 && budget?.take(floats) ? [] : undefined;
  const found = await forward(kept);
  return { found, kept: kept && { values: kept, floats } };
}

/** The budget for values that forward stores to spare backward work. It changes time, not bits. */
export class KeptBudget {
  readonly #floats: number;
  #left: number;

  constructor(floats: number) {
    this.#floats = floats;
    this.#left = floats;
  }

  clear(): void {
    this.#left = this.#floats;
  }

  take(floats: number): boolean {
    if (floats > this.#left) return false;
    this.#left -= floats;
    return true;
  }

  give(floats: number): void {
    this.#left += floats;
  }
}
