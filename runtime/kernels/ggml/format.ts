// The declaration of a ggml block type.

/** Reads the block at byte `at` into `values` floats from `to`. */
type Dequantize = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

/** 16-bit words of a block, by byte, and which of their bits bound its values: all are at most a million where none exceeds `most`. */
interface Scales {
  readonly at: readonly number[];
  readonly mask: number;
  readonly most: number;
}

/** f16 scales of at most 244: no type's levels and nested scales come to more than 4,096 of them. */
export const halfScales = (...at: readonly number[]): Scales => ({ at, mask: 0x7fff, most: 0x5ba0 });

export interface BlockFormat {
  /** The number in GGUF files. */
  readonly type: number;
  /** Per block, along a row. */
  readonly values: number;
  /** Per block. */
  readonly bytes: number;
  readonly scales: Scales;
  /** The reference: f32, with every product and sum rounded as in ggml's plain code. */
  readonly dequantize: Dequantize;
}
