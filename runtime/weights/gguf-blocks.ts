// The GGUF block formats we read, as bytes to f32. Pure. Layouts follow the GGML format description:
// a block holds 32 values; Q4 packs value i in the low and value i + 16 in the high nibble of byte i.
import { halfToFloat, viewF32, widenBf16, widenF16 } from "./floats.ts";

interface BlockFormat {
  readonly name: string;
  readonly values: number; // per block
  readonly bytes: number; // per block
  widen(bytes: Uint8Array): Float32Array;
}

const half = (bytes: Uint8Array, at: number): number => halfToFloat((bytes[at] as number) | ((bytes[at + 1] as number) << 8));

/** The 32 nibbles of 16 bytes, each times `scale` plus `shift`, into `out`. */
function nibbles(bytes: Uint8Array, out: Float32Array, scale: number, shift: number): void {
  for (let i = 0; i < 16; i++) {
    const pair = bytes[i] as number;
    out[i] = (pair & 15) * scale + shift;
    out[16 + i] = (pair >> 4) * scale + shift;
  }
}

/** w = (q - 8) * d */
function widenQ4Zero(bytes: Uint8Array): Float32Array {
  const out = new Float32Array((bytes.length / 18) * 32);
  for (let at = 0, to = 0; at < bytes.length; at += 18, to += 32) {
    nibbles(bytes.subarray(at + 2, at + 18), out.subarray(to, to + 32), 1, -8);
    const scale = half(bytes, at);
    for (let i = to; i < to + 32; i++) out[i] = (out[i] as number) * scale;
  }
  return out;
}

/** w = q * d + m */
function widenQ4One(bytes: Uint8Array): Float32Array {
  const out = new Float32Array((bytes.length / 20) * 32);
  for (let at = 0, to = 0; at < bytes.length; at += 20, to += 32)
    nibbles(bytes.subarray(at + 4, at + 20), out.subarray(to, to + 32), half(bytes, at), half(bytes, at + 2));
  return out;
}

/** w = q * d, q signed */
function widenQ8Zero(bytes: Uint8Array): Float32Array {
  const out = new Float32Array((bytes.length / 34) * 32);
  for (let at = 0, to = 0; at < bytes.length; at += 34, to += 32) {
    const scale = half(bytes, at);
    for (let i = 0; i < 32; i++) out[to + i] = (((bytes[at + 2 + i] as number) << 24) >> 24) * scale;
  }
  return out;
}

/** Block formats by GGML type number. */
export const blockFormats: Readonly<Record<number, BlockFormat>> = {
  0: { name: "F32", values: 1, bytes: 4, widen: viewF32 },
  1: { name: "F16", values: 1, bytes: 2, widen: widenF16 },
  2: { name: "Q4_0", values: 32, bytes: 18, widen: widenQ4Zero },
  3: { name: "Q4_1", values: 32, bytes: 20, widen: widenQ4One },
  8: { name: "Q8_0", values: 32, bytes: 34, widen: widenQ8Zero },
  30: { name: "BF16", values: 1, bytes: 2, widen: widenBf16 },
};
