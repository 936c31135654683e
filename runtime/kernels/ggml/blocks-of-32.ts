// ggml's types with evenly spaced levels in blocks of 32, with a scale, some with a minimum, and 4, 5 or 8 bits per value.
import { type BlockFormat, halfScales } from "./format.ts";
import { halfAt } from "./half-floats.ts";

const values = 32;
const half = values / 2;

/** w = (q - zero) * d. The products are exact in f32. */
function centred(type: number, zero: number, fifthBit: boolean): BlockFormat {
  const at5 = 2;
  const quants = fifthBit ? at5 + 4 : 2;
  return {
    type,
    values,
    bytes: quants + half,
    scales: halfScales(0),
    dequantize(bytes, at, out, to) {
      const d = halfAt(bytes, at);
      for (let i = 0; i < half; i++) {
        const pair = bytes[at + quants + i] as number;
        const [low, high] = fifthBit ? [bit(bytes, at + at5, i), bit(bytes, at + at5, i + half)] : [0, 0];
        out[to + i] = ((pair & 15) + low - zero) * d;
        out[to + half + i] = ((pair >> 4) + high - zero) * d;
      }
    },
  };
}

/** w = q * d + m. */
function shifted(type: number, fifthBit: boolean): BlockFormat {
  const at5 = 4;
  const quants = fifthBit ? at5 + 4 : 4;
  return {
    type,
    values,
    bytes: quants + half,
    scales: halfScales(0, 2),
    dequantize(bytes, at, out, to) {
      const [d, m] = [halfAt(bytes, at), halfAt(bytes, at + 2)];
      for (let i = 0; i < half; i++) {
        const pair = bytes[at + quants + i] as number;
        const [low, high] = fifthBit ? [bit(bytes, at + at5, i), bit(bytes, at + at5, i + half)] : [0, 0];
        out[to + i] = ((pair & 15) + low) * d + m;
        out[to + half + i] = ((pair >> 4) + high) * d + m;
      }
    },
  };
}

const bit = (bytes: Uint8Array, at: number, i: number): number => (((bytes[at + (i >> 3)] as number) >> (i & 7)) & 1) << 4;

export const q4_0 = centred(2, 8, false);
export const q4_1 = shifted(3, false);
export const q5_0 = centred(6, 16, true);
export const q5_1 = shifted(7, true);

/** w = q * d, q signed. */
export const q8_0: BlockFormat = {
  type: 8,
  values,
  bytes: 2 + values,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at);
    for (let i = 0; i < values; i++) out[to + i] = (((bytes[at + 2 + i] as number) << 24) >> 24) * d;
  },
};
