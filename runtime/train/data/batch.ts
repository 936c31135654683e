// The micro-batches of a step: sequences in the order of the seed, cut into equal parts.

import type { MicroBatch } from "../passes/passes.ts";
import type { Corpus, Sample } from "./corpus.ts";
import { sampleAt } from "./order.ts";

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
