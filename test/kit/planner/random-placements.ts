// Random placements of a layer's experts with rows dealt to their hosts, for properties of collectives and of what carries them out.

import { dispatchNames } from "../../../crds/names.ts";
import { uniform } from "../../../runtime/kernels/random.ts";
import { type Blocks, dealBlocks } from "../../../runtime/placement/training/blocks.ts";
import { chunkBlocks, chunkHosts } from "../../../runtime/placement/training/chunks.ts";
import { type Interval, microBatchIntervals } from "../../../runtime/placement/training/micro-batches.ts";

export interface RandomPlacement {
  readonly ranks: number;
  /** Of each chunk, as hosts and blocks are; rows are of experts. */
  readonly slices: number;
  readonly primaries: readonly number[];
  readonly hosts: readonly (readonly number[])[];
  readonly node: readonly number[];
  readonly rows: readonly (readonly number[])[];
  readonly intervals: readonly Interval[];
  readonly blocks: Blocks;
}

function placement(seed: number): RandomPlacement {
  const draw = uniform(seed);
  const below = (n: number): number => Math.floor(draw() * n);
  const [ranks, experts, microBatches] = [1 + below(6), 1 + below(8), 8];
  const primaries = Array.from({ length: experts }, () => below(ranks));
  const crowd = draw();
  const others = (primary: number): number[] => Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => rank !== primary);
  const hosts = primaries.map((primary) => [primary, ...others(primary).filter(() => draw() < crowd)]);
  const rows = Array.from({ length: microBatches }, () => primaries.map(() => Math.max(0, below(12) - 3)));
  const intervals = microBatchIntervals(microBatches, new Array<number>(ranks).fill(1));
  const speed = new Float64Array(ranks).fill(1);
  const blocks = dealBlocks(dispatchNames[below(dispatchNames.length)] ?? "Exact", { rows, hosts, intervals, speed });
  return { ranks, slices: 1, primaries, hosts, node: Array.from({ length: ranks }, () => below(2)), rows, intervals, blocks };
}

/** The same with each expert cut into so many slices: the first stays where the expert is, the others have primaries of their own. */
function sliced(given: RandomPlacement, slices: number, seed: number): RandomPlacement {
  const draw = uniform(seed);
  const others = (): number[] => Array.from({ length: slices - 1 }, () => Math.floor(draw() * given.ranks));
  const primaries = given.primaries.flatMap((primary) => [primary, ...others()]);
  return { ...given, slices, primaries, hosts: chunkHosts(given.hosts, primaries, slices), blocks: chunkBlocks(given.blocks, slices) };
}

/** The first so many of an endless row. */
export function placements(count: number, slices = 1): readonly RandomPlacement[] {
  return Array.from({ length: count }, (_, seed) => sliced(placement(seed), slices, seed));
}
