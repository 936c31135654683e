// The lanes of a step: sequences in the order of the seed, cut into equal shares. Shell: reads the corpus.

import type { Lane } from "../passes/passes.ts";
import type { Corpus, Sample } from "./corpus.ts";
import { sampleAt } from "./order.ts";

interface Batch {
  readonly sequences: number;
  readonly lanes: number;
  readonly seed: number;
}

/** Samples of a lane of a step, which counts from 1. */
export function samplesOf({ sequences, lanes, seed }: Batch, samples: number, step: number, lane: number): readonly number[] {
  const share = sequences / lanes;
  const first = (step - 1) * sequences + lane * share;
  return Array.from({ length: share }, (_, i) => sampleAt(first + i, samples, seed));
}

export async function readLane(corpus: Corpus, samples: readonly number[]): Promise<Lane> {
  const read: Sample[] = [];
  for (const sample of samples) read.push(await corpus.read(sample));
  const joined = (parts: readonly Int32Array[]): Int32Array => Int32Array.from(parts.flatMap((part) => [...part]));
  return { inputs: joined(read.map(({ inputs }) => inputs)), targets: joined(read.map(({ targets }) => targets)) };
}
