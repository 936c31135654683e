// Tensors, weights and segments as backends take them.

export type DType = "f32" | "i32";

/** Row-major, on the host. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

export interface WeightDecl {
  /** The checkpoint tensor, or the matrix or bias inside an expert unit. */
  readonly name: string;
  readonly shape: readonly number[];
  /** Training does not change it: no gradient and no moments. */
  readonly frozen?: true;
}

/** Rotary embedding; the family has already resolved its scaling (YaRN). */
export interface Rope {
  /** Radians per position of each pair, f32 values. */
  readonly frequencies: readonly number[];
  /** Multiplies cosines and sines. */
  readonly factor: number;
  /** The first rotated value of a head. */
  readonly from: number;
  /** Pairs are neighbours (2i, 2i + 1), not (i, i + pairs). */
  readonly interleaved: boolean;
}

interface SegmentOutput {
  readonly name: string;
  readonly dtype: DType;
  readonly width: number;
  /** It stays on the device: `run` does not return it, and `keptRow` reads single rows. */
  readonly kept?: boolean;
}

export interface SegmentOf<O> {
  readonly name: string; // "embed", "block.3", "expert", "head"
  readonly inputs: readonly { readonly name: string; readonly dtype: DType; readonly width: number }[]; // [n, width]; width 0 = [n]
  readonly outputs: readonly SegmentOutput[];
  readonly weights: readonly WeightDecl[];
  readonly ops: readonly O[];
}
