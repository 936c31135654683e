// Programs as data: a model family is a wiring of segments, a segment is a short list of ops over named tensors. Backends compile segments;
// this file only says what a segment is.

import type { Op } from "./index.ts";
import type { SegmentOf } from "./tensor.ts";

export type { Op, OpName } from "./index.ts";
export type { DType, Rope, Tensor, WeightDecl } from "./tensor.ts";

/** Values are names: of segment inputs, of earlier outputs, of weights. n = rows of the call (tokens). */
export type Segment = SegmentOf<Op>;

/** A layer that computes all of itself for every token, on the token's own rank. */
export interface DenseLayer {
  readonly kind: "dense";
  /** x -> y (output of the layer). */
  readonly block: Segment;
}

/** A layer with experts that tokens are routed to, wherever they are. */
export interface MoeLayer {
  readonly kind: "moe";
  /** x -> h (what expert rows are added to: the residual, and the rows of shared experts), f (what experts see), ids, gates. */
  readonly block: Segment;
  readonly experts: number;
  readonly topK: number;
  /** x -> y (unweighted). */
  readonly expert: Segment;
  /** Experts beside the routed ones that every token passes: wired into the block, part of the dense weights. A family states their number
   *  and checkProgram holds it to be one; serving computes the block's ops and never asks. */
  readonly shared: number;
  /** Experts that its gate may choose beside those, with ids from `experts` on: the block has added them to h. */
  readonly free?: { readonly count: number; readonly balanceWeight: number };
}

export type Layer = DenseLayer | MoeLayer;

/** A model as segments. */
export interface ModelProgram {
  readonly family: string; // "mixtral"
  readonly layers: readonly Layer[];
  /** Width of the rows that experts take and give, and of those of embed and head. */
  readonly hidden: number;
  readonly vocab: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Values of a head's key; its value in the cache has `valueDim`. */
  readonly headDim: number;
  readonly valueDim: number;
  readonly maxContext: number;
  readonly embed: Segment;
  readonly head: Segment;
}
