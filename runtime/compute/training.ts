// The interface of training backends: compile a segment, run forward, and backward with gradients added to sums.
import type { Gradients, Values } from "../kernels/kernel.ts";
import type { Segment } from "../kernels/segment.ts";

/** Views of the caller's memory. */
export type WeightViews = Readonly<Record<string, Float32Array>>;

export interface KeptValue {
  readonly name: string;
  readonly width: number;
  /** [rows, width] */
  readonly data: Float32Array;
}
export type KeptRows = readonly KeptValue[];

export interface BackwardCall {
  readonly kept?: KeptRows | undefined;
  readonly values: Values;
  readonly weights: WeightViews;
  /** A missing gradient is zero. */
  readonly outputs: Gradients;
  /** Gradients of weights are added in place. */
  readonly sums: WeightViews;
}

/** Its backward recomputes forward, or uses what forward stored. */
export interface TrainableSegment {
  readonly keeps: number;
  forward(values: Values, weights: WeightViews, kept?: KeptValue[]): Promise<Values>;
  backward(call: BackwardCall): Promise<Gradients>;
}

/** Rows of one expert from any micro-batches; those of one are contiguous. */
export interface ExpertCall {
  /** [rows, hidden] */
  readonly x: Float32Array;
  /** [rows]: the factors of the expert's output rows. */
  readonly gates: Float32Array;
  /** The gradient of the products, [rows, hidden]. */
  readonly dOut: Float32Array;
  readonly weights: WeightViews;
  readonly kept?: KeptRows | undefined;
}

interface ExpertGradients {
  readonly dx: Float32Array;
  readonly dGates: Float32Array;
  /** Adds the weights' gradients of rows from..to-1 in place. */
  addTo(sums: WeightViews, from: number, to: number): Promise<void>;
}

export interface TrainableExpert {
  readonly keeps: number;
  /** Up to so many rows per call, a row's bits do not depend on its neighbours. */
  readonly rowsAtOnce: number;
  /** Up to so many rows, gradients have the same bits added in place as added to zeros first. */
  readonly rowsInPlace: number;
  forward(x: Float32Array, weights: WeightViews, kept?: KeptValue[]): Promise<Float32Array>;
  backward(call: ExpertCall): Promise<ExpertGradients>;
}

export interface LossCall {
  /** [rows, hidden] */
  readonly x: Float32Array;
  /** [rows] */
  readonly targets: Int32Array;
  readonly weights: WeightViews;
}

/** The head with cross-entropy works in chunks of `lossRows` rows to bound memory. */
export interface TrainableLoss {
  forward(call: LossCall): Promise<Float32Array>;
  /** The gradients of sum(scale * loss). */
  backward(
    call: LossCall & { readonly scale: number; readonly sums: WeightViews },
  ): Promise<{ readonly losses: Float32Array; readonly dx: Float32Array }>;
}

export const lossRows = 256;

export interface TrainingBackend {
  readonly device: string;
  /** What the bits depend on beside model, data and settings. */
  readonly numerics: string;
  /** Throws AppError `UnsupportedOp`, which names op and segment. */
  compile(segment: Segment, tokens: number): Promise<TrainableSegment>;
  compileExpert(expert: Segment): Promise<TrainableExpert>;
  compileLoss(head: Segment): Promise<TrainableLoss>;
  close(): Promise<void>;
}

export interface TrainingOptions {
  readonly threads: number;
}
