// ggml's types with 16 levels from a table: iq4_nl, iq4_xs, mxfp4 and nvfp4.
import { type BlockFormat, halfScales } from "./format.ts";
import { halfAt } from "./half-floats.ts";

export const nonLinearLevels = Int8Array.of(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
/** The levels of mxfp4 (E2M1 floats), doubled to be integers. */
export const e2m1Levels = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

const half = 16;

interface Nibbles {
  readonly bytes: Uint8Array;
  readonly at: number;
  readonly out: Float32Array;
  readonly to: number;
}

function look(levels: Int8Array, scale: number, { bytes, at, out, to }: Nibbles): void {
  for (let i = 0; i < half; i++) {
    const pair = bytes[at + i] as number;
    out[to + i] = (levels[pair & 15] as number) * scale;
    out[to + half + i] = (levels[pair >> 4] as number) * scale;
  }
}

export const iq4_nl: BlockFormat = {
  type: 20,
  values: 32,
  bytes: 2 + half,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    look(nonLinearLevels, halfAt(bytes, at), { bytes, at: at + 2, out, to });
  },
};

/** 256 values with a 6-bit scale per 32: four bits in `low`, two in the word at byte 2. */
export const iq4_xs: BlockFormat = {
  type: 23,
  values: 256,
  bytes: 8 + 128,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at);
    const high = (bytes[at + 2] as number) | ((bytes[at + 3] as number) << 8);
    for (let group = 0; group < 8; group++) {
      const low = ((bytes[at + 4 + (group >> 1)] as number) >> (4 * (group & 1))) & 15;
      const scale = Math.fround(d * ((low | (((high >> (2 * group)) & 3) << 4)) - 32));
      look(nonLinearLevels, scale, { bytes, at: at + 8 + group * half, out, to: to + group * 32 });
    }
  },
};

/** The scale is a power of two; a byte has its exponent. */
export const mxfp4: BlockFormat = {
  type: 39,
  values: 32,
  bytes: 1 + half,
  scales: { at: [0], mask: 0xff, most: 144 },
  dequantize(bytes, at, out, to) {
    look(e2m1Levels, 2 ** ((bytes[at] as number) - 128), { bytes, at: at + 1, out, to });
  },
};

/** An unsigned E4M3; its NaN counts as zero. */
function e4m3(byte: number): number {
  if (byte === 0x7f) return 0;
  const [exponent, mantissa] = [(byte >> 3) & 15, byte & 7];
  return exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7);
}

/** 64 values with an E4M3 scale per 16. */
export const nvfp4: BlockFormat = {
  type: 40,
  values: 64,
  bytes: 4 + 32,
  scales: halfScales(),
  dequantize(bytes, at, out, to) {
    for (let i = 0; i < 64; i++) {
      const [part, within] = [i >> 4, i & 15];
      const pair = bytes[at + 4 + 8 * part + (within & 7)] as number;
      const level = e2m1Levels[within < 8 ? pair & 15 : pair >> 4] as number;
      out[to + i] = level * e4m3(bytes[at + part] as number) * 0.5;
    }
  },
};
