// Widens f16 and bf16 to f32.
import { type BlockFormat, halfScales } from "./format.ts";

const halfValues = 65536;
let halfTable: Float32Array | undefined;

export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function halves(): Float32Array {
  if (!halfTable) {
    halfTable = new Float32Array(halfValues);
    for (let bits = 0; bits < halfValues; bits++) halfTable[bits] = halfToFloat(bits);
  }
  return halfTable;
}

/** Little-endian. */
export function widenF16(bytes: Uint8Array): Float32Array {
  const table = halves();
  const out = new Float32Array(bytes.length >> 1);
  for (let i = 0; i < out.length; i++) out[i] = table[(bytes[2 * i] as number) | ((bytes[2 * i + 1] as number) << 8)] as number;
  return out;
}

/** Little-endian. */
export function widenBf16(bytes: Uint8Array): Float32Array {
  const words = new Uint32Array(bytes.length >> 1);
  for (let i = 0; i < words.length; i++) words[i] = (((bytes[2 * i] as number) << 16) | ((bytes[2 * i + 1] as number) << 24)) >>> 0;
  return new Float32Array(words.buffer);
}

/** The f16 at byte `at`. */
export function halfAt(bytes: Uint8Array, at: number): number {
  return halves()[(bytes[at] as number) | ((bytes[at + 1] as number) << 8)] as number;
}

export const f16: BlockFormat = {
  type: 1,
  values: 1,
  bytes: 2,
  scales: halfScales(0),
  dequantize(bytes, at, out, to) {
    out[to] = halfAt(bytes, at);
  },
};

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

export const bf16: BlockFormat = {
  type: 30,
  values: 1,
  bytes: 2,
  scales: { at: [0], mask: 0x7fff, most: 0x4974 },
  dequantize(bytes, at, out, to) {
    word[0] = ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 24);
    out[to] = float[0] as number;
  },
};
