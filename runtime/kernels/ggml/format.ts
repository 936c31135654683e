// The declaration of a ggml block type.

/** Reads the block at byte `at` into `values` floats from `to`. */
type Dequantize = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

export interface BlockFormat {
  /** The number in GGUF files. */
  readonly type: number;
  /** Per block, along a row. */
  readonly values: number;
  /** Per block. */
  readonly bytes: number;
  /** The reference: f32, with every product and sum rounded as in ggml's plain code. */
  readonly dequantize: Dequantize;
}
