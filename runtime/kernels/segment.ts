// Programs as data: a model family is a wiring of segments, a segment is a short list of ops over named tensors.
// Backends compile segments; this file only says what a segment is. Pure.
// Segments are cut where tokens may travel between ranks: embed, block (attention + router, or a whole dense layer), expert, head.

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
  /** x -> h (what expert rows are added to: the residual, and the rows of shared experts), f (what experts see), ids, gates. A row of
   *  h may be wider than what experts give: what is behind goes on to the next layer, whose x is as wide. */
  readonly block: Segment;
  readonly experts: number;
  readonly topK: number;
  /** x -> y (unweighted). Its weights are the matrices and biases of one expert's unit, in stored order; any number. Layers of equal
   *  shape share one object. */
  readonly expert: Segment;
  /** Experts beside the routed ones that every token passes: wired into the block, part of the dense weights. A family states their
   *  number and checkProgram holds it to be one; serving computes the block's ops and never asks. */
  readonly shared: number;
  /** Experts that its gate may choose beside those, with ids from `experts` on: the block has added them to h. Losses of balance weigh
   *  one of them as `balanceWeight` of the others. */
  readonly free?: { readonly count: number; readonly balanceWeight: number };
}

export type Layer = DenseLayer | MoeLayer;

/** A model as segments. Tensor names between segments:
 *  embed: ids -> x;  layers: see above;  after a MoE block the engine adds h + sum_k gates[k] * y[k] in gate order, to the first
 *  `hidden` values of each row;  head: x -> logits. */
export interface ModelProgram {
  readonly family: string; // "mixtral"
  readonly layers: readonly Layer[];
  /** Width of the rows that experts take and give, and of those of embed and head; between layers they may be wider. */
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
