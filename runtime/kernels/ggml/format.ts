// The declaration of a ggml block type: its number in GGUF files, the size of its blocks, and what a block means.

/** Reads one block that begins at byte `at` into `values` floats from `to`. */
type Dequantize = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

export interface BlockFormat {
  /** ggml's number of the type, as GGUF files have it. */
  readonly type: number;
  /** Values of a block, along a row. */
  readonly values: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** The reference: in f32, every product and sum rounded, as ggml's own plain code does. */
  readonly dequantize: Dequantize;
}
