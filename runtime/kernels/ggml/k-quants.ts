// ggml's K types: blocks of 256 values, with nested scales for groups of 16 or 32.
import { type BlockFormat, halfScales } from "./format.ts";
import { halfAt } from "./half-floats.ts";

const values = 256;
const round = Math.fround;

/** 16 groups of 16; a byte has a group's scale in the low and its minimum in the high half. */
export const q2_K: BlockFormat = {
  type: 10,
  values,
  bytes: 84,
  scales: halfScales(80, 82),
  dequantize(bytes, at, out, to) {
    const [d, least] = [halfAt(bytes, at + 80), halfAt(bytes, at + 82)];
    for (let group = 0; group < 16; group++) {
      const packed = bytes[at + group] as number;
      const [scale, min] = [round(d * (packed & 15)), round(least * (packed >> 4))];
      const from = at + 16 + 32 * (group >> 3) + 16 * (group & 1);
      const shift = 2 * ((group & 7) >> 1);
      for (let i = 0; i < 16; i++) out[to + group * 16 + i] = round((((bytes[from + i] as number) >> shift) & 3) * scale) - min;
    }
  },
};

/** 16 groups of 16; a mask has the third bit of each value, which means minus four where it is 0. */
export const q3_K: BlockFormat = {
  type: 11,
  values,
  bytes: 110,
  scales: halfScales(108),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at + 108);
    for (let group = 0; group < 16; group++) {
      const low = ((bytes[at + 96 + (group & 7)] as number) >> (group < 8 ? 0 : 4)) & 15;
      const high = ((bytes[at + 104 + (group & 3)] as number) >> (2 * (group >> 2))) & 3;
      const scale = round(d * ((low | (high << 4)) - 32));
      const from = at + 32 + 32 * (group >> 3) + 16 * (group & 1);
      const [shift, mask, bit] = [2 * ((group & 7) >> 1), at + 16 * (group & 1), group >> 1];
      for (let i = 0; i < 16; i++) {
        const two = ((bytes[from + i] as number) >> shift) & 3;
        const third = ((bytes[mask + i] as number) >> bit) & 1;
        out[to + group * 16 + i] = scale * (two - (third === 1 ? 0 : 4));
      }
    }
  },
};

/** The 6-bit scale and minimum of group 0..7 from the twelve packed bytes of q4_K and q5_K. */
function sixBits(bytes: Uint8Array, at: number, group: number): readonly [scale: number, min: number] {
  const byte = (i: number): number => bytes[at + i] as number;
  if (group < 4) return [byte(group) & 63, byte(group + 4) & 63];
  const pair = byte(group + 4);
  return [(pair & 15) | ((byte(group - 4) >> 6) << 4), (pair >> 4) | ((byte(group) >> 6) << 4)];
}

/** 8 groups of 32: w = q * scale - min, with four bits per value and in q5_K a fifth in a mask. */
function withMins(type: number, bytesOf: number, mask: number | undefined): BlockFormat {
  const quants = bytesOf - values / 2;
  return {
    type,
    values,
    bytes: bytesOf,
    scales: halfScales(0, 2),
    dequantize(bytes, at, out, to) {
      const [d, least] = [halfAt(bytes, at), halfAt(bytes, at + 2)];
      for (let group = 0; group < 8; group++) {
        const six = sixBits(bytes, at + 4, group);
        const [scale, min] = [round(d * six[0]), round(least * six[1])];
        const from = at + quants + 32 * (group >> 1);
        const shift = 4 * (group & 1);
        for (let i = 0; i < 32; i++) {
          const fifth = mask === undefined ? 0 : (((bytes[at + mask + i] as number) >> group) & 1) << 4;
          out[to + group * 32 + i] = round(((((bytes[from + i] as number) >> shift) & 15) + fifth) * scale) - min;
        }
      }
    },
  };
}

export const q4_K = withMins(12, 144, undefined);
export const q5_K = withMins(13, 176, 16);

/** 16 groups of 16 with signed 8-bit scales. */
export const q6_K: BlockFormat = {
  type: 14,
  values,
  bytes: 210,
  scales: halfScales(208),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at + 208);
    for (let group = 0; group < 16; group++) {
      const scale = round(d * (((bytes[at + 192 + group] as number) << 24) >> 24));
      const [part, quarter, odd] = [group >> 3, (group & 7) >> 1, 16 * (group & 1)];
      const low = at + 64 * part + 32 * (quarter & 1) + odd;
      const high = at + 128 + 32 * part + odd;
      for (let i = 0; i < 16; i++) {
        const four = ((bytes[low + i] as number) >> (4 * (quarter >> 1))) & 15;
        const two = ((bytes[high + i] as number) >> (2 * quarter)) & 3;
        out[to + group * 16 + i] = scale * ((four | (two << 4)) - 32);
      }
    }
  },
};
