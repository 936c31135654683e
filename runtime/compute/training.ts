// The interface of training: compile a segment, run it forward, and backward with gradients added to sums. Interface only; open-training.ts has
// what implements it.
import type { Gradients, Values } from "../kernels/kernel.ts";
import type { Segment } from "../kernels/segment.ts";

/** Weights of a segment, or the sums of their gradients, by the segment's names: views of memory that the caller owns. */
export type WeightViews = Readonly<Record<string, Float32Array>>;

/** Values of forward that backward need not compute again. */
export interface KeptValue {
  readonly name: string;
  readonly width: number;
  /** [rows, width] */
  readonly data: Float32Array;
}
export type KeptRows = readonly KeptValue[];

export interface BackwardCall {
  readonly kept?: KeptRows | undefined;
  /** Inputs, and what forward returned beside the f32 outputs. */
  readonly values: Values;
  readonly weights: WeightViews;
  /** Gradients of the outputs, and of values beside them; one that is left out is zero. */
  readonly outputs: Gradients;
  /** Gradients of weights are added here, in place. */
  readonly sums: WeightViews;
}

/** A segment that rows pass whole: its backward computes forward again, or is given what forward kept. */
export interface TrainableSegment {
  /** Floats of what forward keeps of a row. */
  readonly keeps: number;
  /** The outputs, and values beside them that backward is given. */
  forward(values: Values, weights: WeightViews, kept?: KeptValue[]): Promise<Values>;
  /** Gradients of the f32 inputs. */
  backward(call: BackwardCall): Promise<Gradients>;
}

/** Rows of one expert, of any lanes: those of one lane lie together. */
export interface ExpertCall {
  /** [rows, hidden] */
  readonly x: Float32Array;
  /** [rows]: what each row of the expert's output is multiplied by. */
  readonly gates: Float32Array;
  /** The gradient of the products, [rows, hidden]. */
  readonly dOut: Float32Array;
  readonly weights: WeightViews;
  /** Of the same rows. */
  readonly kept?: KeptRows | undefined;
}

interface ExpertGradients {
  readonly dx: Float32Array;
  readonly dGates: Float32Array;
  /** Adds the weights' gradients of rows from..to-1 to sums, in place. */
  addTo(sums: WeightViews, from: number, to: number): Promise<void>;
}

/** An expert, x -> y. */
export interface TrainableExpert {
  readonly keeps: number;
  /** Rows of several lanes that a call may have, at most: up to so many a row's bits do not depend on those beside it. */
  readonly rowsAtOnce: number;
  /** Rows whose gradients have the same bits whether they are added to a sum in place or to zeros that are then added to it, at most. */
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

/** The head with cross-entropy behind it, in chunks of `lossRows` rows: all logits of a lane at once would fill memory. */
export interface TrainableLoss {
  /** The loss of each row. */
  forward(call: LossCall): Promise<Float32Array>;
  /** Of sum(scale * loss). */
  backward(
    call: LossCall & { readonly scale: number; readonly sums: WeightViews },
  ): Promise<{ readonly losses: Float32Array; readonly dx: Float32Array }>;
}

/** Rows whose logits are in memory at once. */
export const lossRows = 256;

export interface TrainingBackend {
  readonly device: string;
  /** What the bits of a run depend on beside model, data and settings: engine and version, and the instructions that compute. */
  readonly numerics: string;
  /** Throws AppError `UnsupportedOp` that names op and segment. */
  compile(segment: Segment, tokens: number): Promise<TrainableSegment>;
  compileExpert(expert: Segment): Promise<TrainableExpert>;
  compileLoss(head: Segment): Promise<TrainableLoss>;
  close(): Promise<void>;
}

export interface TrainingOptions {
  /** Of one call. */
  readonly threads: number;
}
