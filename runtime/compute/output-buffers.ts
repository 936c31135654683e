// Reused output arrays; new ones per step would keep the garbage collector busy.
import type { BufferAllocator } from "./backend.ts";

/** Returns the same memory for the same name. */
export function reusedBuffers(): BufferAllocator {
  const arrays = new Map<string, Float32Array>();
  return (output, length) => {
    const had = arrays.get(output);
    if (had !== undefined && had.length >= length) return had.length === length ? had : had.subarray(0, length);
    const made = new Float32Array(length);
    arrays.set(output, made);
    return made;
  };
}

/** Cuts an array into consecutive pieces. */
export function inPieces(all: Float32Array): (length: number) => Float32Array {
  let at = 0;
  return (length) => {
    at += length;
    return all.subarray(at - length, at);
  };
}
