// Tensors, weights and segments as backends take them.

export type DType = "f32" | "i32";

/** A dense host tensor, row-major. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** A weight as a segment needs it. */
export interface WeightDecl {
  /** Checkpoint tensor name, or the name of a matrix or bias inside an expert unit. */
  readonly name: string;
  readonly shape: readonly number[];
  /** Training leaves it as it is, so it has neither gradient nor moments. */
  readonly frozen?: true;
}

/** Rotary embedding as every backend sees it: what scales it (YaRN) is resolved by the family. */
export interface Rope {
  /** Radians that each pair turns by from one position to the next, f32 values. */
  readonly frequencies: readonly number[];
  /** Cosines and sines are multiplied by it. */
  readonly factor: number;
  /** The first value of a head that turns. */
  readonly from: number;
  /** Pairs are neighbours (2i, 2i + 1) rather than (i, i + pairs). */
  readonly interleaved: boolean;
}

interface SegmentOutput {
  readonly name: string;
  readonly dtype: DType;
  readonly width: number;
  /** It stays on the device: a run gives it to nobody, and single rows are read by who needs them. */
  readonly kept?: boolean;
}

export interface SegmentOf<O> {
  readonly name: string; // "embed", "block.3", "expert", "head"
  readonly inputs: readonly { readonly name: string; readonly dtype: DType; readonly width: number }[]; // [n, width]; width 0 = [n]
  readonly outputs: readonly SegmentOutput[];
  readonly weights: readonly WeightDecl[];
  readonly ops: readonly O[];
}
