// Floats as bytes and back, and rounding to the half formats. Pure. Not here: widening (runtime/kernels/ggml/halves.ts).

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
