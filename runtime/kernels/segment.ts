// Model programs as data: a segment is a short list of ops over named tensors, and backends compile segments.

import type { Op } from "./index.ts";
import type { SegmentOf } from "./tensor.ts";

export type { Op, OpName } from "./index.ts";
export type { DType, Rope, Tensor, WeightDecl } from "./tensor.ts";

/** Values are names of inputs, earlier outputs or weights. n = rows of the call (tokens). */
export type Segment = SegmentOf<Op>;

/** A layer that is computed on the token's own rank. */
export interface DenseLayer {
  readonly kind: "dense";
  readonly block: Segment;
}

/** A layer whose experts may be on other ranks. */
export interface MoeLayer {
  readonly kind: "moe";
  /** x -> h (the residual and shared experts, to which expert rows are added), f (the experts' input), ids, gates. */
  readonly block: Segment;
  readonly experts: number;
  readonly topK: number;
  /** x -> y (unweighted). */
  readonly expert: Segment;
  /** Experts that every token passes, as part of the block and of the dense weights; checkProgram checks the number. */
  readonly shared: number;
  /** Free experts, which the gate may choose with ids from `experts` on; the block adds them to h. */
  readonly free?: { readonly count: number; readonly balanceWeight: number };
}

export type Layer = DenseLayer | MoeLayer;

export interface ModelProgram {
  readonly family: string;
  readonly layers: readonly Layer[];
  readonly hidden: number;
  readonly vocab: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** The dimension of a head's key; values have `valueDim`. */
  readonly headDim: number;
  readonly valueDim: number;
  readonly maxContext: number;
  readonly embed: Segment;
  readonly head: Segment;
}
