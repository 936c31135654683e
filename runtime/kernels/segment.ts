// Programs as data: a model family is a wiring of segments, a segment is a short list of ops over named tensors.
// Backends compile segments; this file only says what a segment is. Pure.
// Segments are cut where tokens may travel between ranks: embed, block (attention + router, or a whole dense layer), expert, head.

export type DType = "f32" | "i32";

/** A dense host tensor, row-major. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** A weight as a segment needs it. Shapes are as stored by Hugging Face: a projection is [out, in]. */
export interface WeightDecl {
  /** Checkpoint tensor name, or the name of a matrix or bias inside an expert unit. */
  readonly name: string;
  readonly shape: readonly number[];
  /** Training leaves it as it is, so it has neither gradient nor moments. One of an expert is its layer's, the same for all experts. */
  readonly frozen?: true;
}

/** Rotary embedding as every backend sees it: what scales it (YaRN) is resolved by the family. */
export interface Rope {
  /** Radians that each pair turns by from one position to the next, f32 values; 2 * frequencies.length values of a head turn. */
  readonly frequencies: readonly number[];
  /** Cosines and sines are multiplied by it. */
  readonly factor: number;
  /** The first value of a head that turns; those before it and after the last pair stay. */
  readonly from: number;
  /** Pairs are neighbours (2i, 2i + 1) rather than (i, i + pairs). */
  readonly interleaved: boolean;
}

/** Values are names: of segment inputs, of earlier outputs, of weights. n = rows of the call (tokens). */
export type Op =
  /** out[n, d] = table[ids[n], :] */
  | { readonly op: "gather"; readonly ids: string; readonly table: string; readonly out: string }
  /** out = x / sqrt(mean(x^2) + eps) * weight, in f32, over the row or over each of `heads` equal parts of it by the same weight */
  | {
      readonly op: "rmsNorm";
      readonly x: string;
      readonly weight: string;
      readonly eps: number;
      /** Left out where a row is normed whole. */
      readonly heads?: number;
      readonly out: string;
    }
  /** out[n, N] = x[n, K] * weight[N, K]^T */
  | { readonly op: "matMul"; readonly x: string; readonly weight: string; readonly out: string }
  /**
   * Rotary embedding, KV append, causal grouped-query attention. q[n, heads*headDim], k[n, kvHeads*headDim], v[n, kvHeads*valueDim],
   * out[n, heads*valueDim].
   */
  | {
      readonly op: "attention";
      readonly q: string;
      readonly k: string;
      readonly v: string;
      readonly layer: number;
      readonly heads: number;
      readonly kvHeads: number;
      readonly headDim: number;
      readonly valueDim: number;
      readonly rope: Rope;
      readonly scale: number;
      /** Sliding window in tokens, 0 = none. */
      readonly window: number;
      /** Weight [heads]: a score of each head that takes part in its softmax and has no value; left out where there is none. */
      readonly sinks?: string;
      readonly out: string;
    }
  | { readonly op: "add"; readonly a: string; readonly b: string; readonly out: string }
  /** out[n, d] = x[n, d] + row[d]: the bias of a projection */
  | { readonly op: "addRow"; readonly x: string; readonly row: string; readonly out: string }
  /** out = silu(a) * b */
  | { readonly op: "siluMul"; readonly a: string; readonly b: string; readonly out: string }
  /** out = (u + 1) * g * sigmoid(alpha * g) with g = min(a, limit) and u = b kept within -limit..limit */
  | {
      readonly op: "clampedSwiglu";
      readonly a: string;
      readonly b: string;
      readonly alpha: number;
      readonly limit: number;
      readonly out: string;
    }
  /** out[n, heads*width] = values from..from+width-1 of each of `heads` equal parts of a row of x */
  | {
      readonly op: "slice";
      readonly x: string;
      readonly heads: number;
      readonly from: number;
      readonly width: number;
      readonly out: string;
    }
  /** out[n, heads*(w + s)] = each of `heads` parts of a row of x[n, heads*w], followed by the row of shared[n, s] */
  | { readonly op: "joinHeads"; readonly x: string; readonly shared: string; readonly heads: number; readonly out: string }
  /**
   * ids[n, topK] i32 by descending gate, ties to the lowest expert id on a backend of the exact class with at most 16 experts, else to
   * any of the equals, which the row alone decides; gates[n, topK] = softmax(logits) at ids, renormalised to sum 1 if `normalize`.
   */
  | {
      readonly op: "route";
      readonly logits: string;
      readonly topK: number;
      readonly normalize: boolean;
      readonly ids: string;
      readonly gates: string;
    }
  /**
   * The gate of DeepSeek. Scores are softmax or sigmoid of the logits; choices are scores plus the bias. Experts lie in `groups` equal
   * groups, of which the `groupsKept` stay whose `groupTop` best choices have the largest sum (ties: the lowest group). Of the experts
   * that stay the topK best choices (ties: the lowest id) are taken: ids[n, topK] i32 by descending choice; gates[n, topK] = scores
   * at ids, divided by their sum + 1e-20 if `normalize`, times `scale`. For ties see `route`.
   */
  | {
      readonly op: "groupRoute";
      readonly logits: string;
      /** Weight [experts]; left out where choices are scores. */
      readonly bias?: string;
      readonly sigmoid: boolean;
      readonly topK: number;
      readonly groups: number;
      readonly groupsKept: number;
      readonly groupTop: number;
      readonly normalize: boolean;
      readonly scale: number;
      readonly ids: string;
      readonly gates: string;
    }
  /**
   * The `count` largest logits of a row in descending order, equal ones in any: ids[n, count] i32 and values[n, count]. And
   * shares[n, 2] = softmax(logits) and softmax(sharpness[n] * logits) at the first of them.
   */
  | {
      readonly op: "candidates";
      readonly logits: string;
      readonly sharpness: string;
      readonly count: number;
      readonly ids: string;
      readonly values: string;
      readonly shares: string;
    }
  /**
   * The cell of a GRU: out[n, p] = (1 - z) * new + z * state with r = sigmoid(given + held) of their first p values, z of their second, and
   * new = tanh(given + r * held) of their third; given[n, 3p] and held[n, 3p] are the products of input and state, with their biases.
   */
  | { readonly op: "gru"; readonly given: string; readonly held: string; readonly state: string; readonly out: string }
  /**
   * Heads of several attentions weighed by the row's own shares of them: out[n, d] = x[n, d], where each of `parts` equal parts of a row is
   * multiplied by a value of softmax(logits[n, e]), the first by the first, the e-th by the last, the one behind it by the first again.
   */
  | { readonly op: "mixHeads"; readonly x: string; readonly logits: string; readonly parts: number; readonly out: string }
  /** out = x * by */
  | { readonly op: "scale"; readonly x: string; readonly by: number; readonly out: string }
  /**
   * The experts of a layer that cost nothing, computed where the token is: out = x, and to the first d values of a row of x[n, d or
   * more] is added, in gate order and in f32, gates[k] * E(f) of each chosen id from `from` on. E(f) = a1 * f + a2 * constants[:, c] with
   * (a1, a2) = softmax of the two of `mix` for the c-th of them, f for `copies` more, and nothing for `zeros` more.
   */
  | {
      readonly op: "freeExperts";
      readonly x: string;
      readonly f: string;
      readonly ids: string;
      readonly gates: string;
      readonly from: number;
      readonly copies: number;
      readonly zeros: number;
      /** Values [n, 2 * c], left out with `constants` where there are none. */
      readonly mix?: string;
      /** Weight [d, c]. */
      readonly constants?: string;
      readonly out: string;
    };

export type OpName = Op["op"];

interface SegmentOutput {
  readonly name: string;
  readonly dtype: DType;
  readonly width: number;
  /** It stays on the device: a run gives it to nobody, and single rows are read by who needs them. */
  readonly kept?: boolean;
}

export interface Segment {
  readonly name: string; // "embed", "block.3", "expert", "head"
  readonly inputs: readonly { readonly name: string; readonly dtype: DType; readonly width: number }[]; // [n, width]; width 0 = [n]
  readonly outputs: readonly SegmentOutput[];
  readonly weights: readonly WeightDecl[];
  readonly ops: readonly Op[];
}

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
