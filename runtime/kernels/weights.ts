// The forms in which weights are handed about: matrices in f32 or in blocks of four bits. Stores decode into them, backends compile
// from them; neither knows the other. Types only.

/** One weight matrix. f32 is row-major; int4 is the block-32 form of weights/codecs. */
export type WeightData =
  | { readonly codec: "f32"; readonly shape: readonly number[]; readonly data: Float32Array }
  | {
      readonly codec: "int4"; // w = (q - z) * s per block of 32 along the last axis
      readonly shape: readonly number[]; // logical [N, K], K a multiple of 32
      readonly q: Uint8Array; // [N, K/32, 16] two values a byte, low nibble first
      readonly s: Float32Array; // [N, K/32]
      readonly z: Uint8Array; // [N, K/32] one zero point a byte, 0..15
    };

export type Weights = Readonly<Record<string, WeightData>>;
