// Arrays that are used again: the rows of a step take megabytes, and new ones for each step would keep the collector's threads at work on
// the processors that are to compute.
import type { BufferAllocator } from "./backend.ts";

/** Room that gives the same memory for the same name, as much as was ever asked for. */
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

/** Cuts an array into pieces of the lengths asked for, one after another. */
export function inPieces(all: Float32Array): (length: number) => Float32Array {
  let at = 0;
  return (length) => {
    at += length;
    return all.subarray(at - length, at);
  };
}
