// The micro-batches of a step: sequences in the order of the seed, cut into equal parts.
import type { MicroBatch } from "../passes/passes.ts";
import type { Corpus, Sample } from "./corpus.ts";

interface Batch {
  readonly sequences: number;
  readonly microBatches: number;
  readonly seed: number;
}

/** `step` counts from 1. */
export function samplesOf({ sequences, microBatches, seed }: Batch, samples: number, step: number, microBatch: number): readonly number[] {
  const share = sequences / microBatches;
  const first = (step - 1) * sequences + microBatch * share;
  return Array.from({ length: share }, (_, i) => sampleAt(first + i, samples, seed));
}

export async function readMicroBatch(corpus: Corpus, samples: readonly number[]): Promise<MicroBatch> {
  const read: Sample[] = [];
  for (const sample of samples) read.push(await corpus.read(sample));
  const joined = (parts: readonly Int32Array[]): Int32Array => Int32Array.from(parts.flatMap((part) => [...part]));
  return { inputs: joined(read.map(({ inputs }) => inputs)), targets: joined(read.map(({ targets }) => targets)) };
}

const rounds = 6;

function mix(value: number, key: number): number {
  let x = (value ^ key) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

function feistel(value: number, half: number, key: number): number {
  const size = 2 ** half;
  let [left, right] = [Math.floor(value / size), value % size];
  for (let round = 0; round < rounds; round++) {
    const next = (left ^ (mix(right, mix(key, round + 1)) % size)) >>> 0;
    [left, right] = [right, next];
  }
  return left * size + right;
}

/**
 * Place `index` of a permutation of 0..count-1 by (seed, epoch); count up to 2^48. Numbers past the count are mapped again (cycle
 * walking).
 */
export function permuted(index: number, count: number, seed: number, epoch: number): number {
  const half = Math.max(1, Math.ceil(Math.log2(Math.max(2, count)) / 2));
  const key = mix(mix(seed >>> 0, 0x9e3779b9), epoch >>> 0);
  let value = index;
  do value = feistel(value, half, key);
  while (value >= count);
  return value;
}

/** The sample at a position of endless reading. */
export function sampleAt(position: number, count: number, seed: number): number {
  const epoch = Math.floor(position / count);
  return permuted(position - epoch * count, count, seed, epoch);
}
