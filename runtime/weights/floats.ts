// Widening of the half formats that checkpoints use to f32. Pure; exact for every bit pattern, subnormals included.
// Not here: quantised blocks (gguf-blocks.ts, codecs/).

const halfValues = 65536;
let halfTable: Float32Array | undefined;

/** One half as a number. */
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

/** Little-endian f16 bytes to f32. */
export function widenF16(bytes: Uint8Array): Float32Array {
  const table = halves();
  const out = new Float32Array(bytes.length >> 1);
  for (let i = 0; i < out.length; i++) out[i] = table[(bytes[2 * i] as number) | ((bytes[2 * i + 1] as number) << 8)] as number;
  return out;
}

/** Little-endian bf16 bytes to f32: the upper half of an f32. */
export function widenBf16(bytes: Uint8Array): Float32Array {
  const words = new Uint32Array(bytes.length >> 1);
  for (let i = 0; i < words.length; i++) words[i] = (((bytes[2 * i] as number) << 16) | ((bytes[2 * i + 1] as number) << 24)) >>> 0;
  return new Float32Array(words.buffer);
}

/** Little-endian f32 bytes as floats: a view when aligned, else a copy. */
export function viewF32(bytes: Uint8Array): Float32Array {
  if (bytes.byteOffset % 4 === 0) return new Float32Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength >> 2);
  return new Float32Array(new Uint8Array(bytes).buffer); // slice() of a Buffer would be a view again
}

/** The bytes below a float array, without copying. */
export function bytesOf(data: Float32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Rounds to the nearest value that bf16 can hold (ties to even); the result is still f32. */
export function roundToBf16(data: Float32Array): Float32Array {
  const words = new Uint32Array(data.slice().buffer);
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as number;
    words[i] = ((word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000) >>> 0;
  }
  return new Float32Array(words.buffer);
}
