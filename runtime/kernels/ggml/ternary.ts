// ggml's types with values of a scale times -1, 0 or 1, or a sign. All products are exact in f32.
import { type BlockFormat, halfScales } from "./format.ts";
import { halfAt } from "./half-floats.ts";

/** Bytes of base-three digits as a fraction of 256: a value is the carry of the next times three. */
interface Digits {
  readonly from: number;
  readonly count: number;
  readonly each: number;
}

const parts: readonly Digits[] = [
  { from: 0, count: 32, each: 5 },
  { from: 32, count: 16, each: 5 },
  { from: 48, count: 4, each: 4 },
];

/** By value of a block of tq1_0: its byte, and its digit's worth in the number of base three that the byte stands for. */
export const ternaryPlaces = parts.flatMap(({ from, count, each }) =>
  Array.from({ length: count * each }, (_, i) => ({ byte: from + (i % count), worth: 3 ** (4 - Math.floor(i / count)) })),
);

/** Five values per byte, and four in the last ones. */
export const tq1_0: BlockFormat = {
  type: 34,
  values: 256,
  bytes: 54,
  scales: halfScales(52),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at + 52);
    let next = to;
    for (const { from, count, each } of parts) {
      for (let digit = 0, power = 1; digit < each; digit++, power *= 3) {
        for (let i = 0; i < count; i++) out[next++] = d * ((((((bytes[at + from + i] as number) * power) & 255) * 3) >> 8) - 1);
      }
    }
  },
};

/** Two bits per value. */
export const tq2_0: BlockFormat = {
  type: 35,
  values: 256,
  bytes: 66,
  scales: halfScales(64),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at + 64);
    for (let i = 0; i < 256; i++) {
      const byte = bytes[at + 32 * (i >> 7) + (i & 31)] as number;
      out[to + i] = d * (((byte >> (2 * ((i >> 5) & 3))) & 3) - 1);
    }
  },
};

/** One sign bit per value. */
export const q1_0: BlockFormat = {
  type: 41,
  values: 128,
  bytes: 18,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    const d = halfAt(bytes, at);
    for (let i = 0; i < 128; i++) out[to + i] = ((bytes[at + 2 + (i >> 3)] as number) >> (i & 7)) & 1 ? d : -d;
  },
};
