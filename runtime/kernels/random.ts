// Seeded numbers for test cases and synthetic tensors, the same on every machine.
import type { Tensor } from "./tensor.ts";

/** Uniform in [0, 1): mulberry32. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Roughly normal values of the given standard deviation. */
export function gaussian(seed: number, length: number, deviation = 1): Float32Array {
  const next = uniform(seed);
  return Float32Array.from({ length }, () => (next() + next() + next() + next() - 2) * Math.sqrt(3) * deviation);
}

export function randomTensor(seed: number, shape: readonly number[], deviation = 1): { shape: readonly number[]; data: Float32Array } {
  return {
    shape,
    data: gaussian(
      seed,
      shape.reduce((a, b) => a * b, 1),
      deviation,
    ),
  };
}

export function randomIds(seed: number, rows: number, below: number): Tensor {
  const next = uniform(seed);
  return { shape: [rows], data: Int32Array.from({ length: rows }, () => Math.floor(next() * below)) };
}
