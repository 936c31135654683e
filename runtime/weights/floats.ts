// Conversions between floats and bytes, and rounding to half formats.

/** Little-endian f32; a view when aligned, else a copy. */
export function viewF32(bytes: Uint8Array): Float32Array {
  if (bytes.byteOffset % 4 === 0) return new Float32Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength >> 2);
  return new Float32Array(new Uint8Array(bytes).buffer); // slice() of a Buffer would be a view again
}

/** A view. */
export function bytesOf(data: Float32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Ties to even; the result is still f32. */
export function roundToBf16(data: Float32Array): Float32Array {
  const bits = new Uint32Array(data.slice().buffer);
  for (let i = 0; i < bits.length; i++) {
    const value = bits[i] as number;
    bits[i] = ((value + 0x7fff + ((value >>> 16) & 1)) & 0xffff0000) >>> 0;
  }
  return new Float32Array(bits.buffer);
}

const one = new Float32Array(1);
const oneBits = new Uint32Array(one.buffer);

/** Ties to even; NaN stays NaN. */
export function bf16Bits(value: number): number {
  one[0] = value;
  const word = oneBits[0] as number;
  if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 64;
  return ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Ties to even; overflow becomes infinite. */
export function f16Bits(value: number): number {
  one[0] = value;
  const word = oneBits[0] as number;
  const sign = (word >>> 16) & 0x8000;
  const size = word & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00; // half a step above 65504, and beyond
  if (size < 0x38800000) return sign | roundEven(Math.abs(one[0] as number) * 2 ** 24); // subnormal, a multiple of 2^-24
  return sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
}

function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest === 0.5) return floor + (floor & 1);
  return rest > 0.5 ? floor + 1 : floor;
}
