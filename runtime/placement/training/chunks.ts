// Chunks: (layer, expert, slice), the unit that has one primary and is replicated and summed as one. An expert is cut into slices of
// equal length.
import type { Blocks } from "./blocks.ts";

export const slicesPerExpert = 1;

/** The number of a chunk within its layer; slices of an expert are adjacent. */
export const chunkOf = (expert: number, slice: number, slices: number): number => expert * slices + slice;

export const expertOf = (chunk: number, slices: number): number => Math.floor(chunk / slices);

/** The chunk's part of its expert's floats. Throws TypeError for slices of unequal length. */
export function chunkIn(expert: Float32Array, chunk: number, slices: number): Float32Array {
  const floats = expert.length / slices;
  if (!Number.isInteger(floats)) throw new TypeError(`an expert of ${expert.length} floats cannot be cut into ${slices} equal slices`);
  const slice = chunk % slices;
  return expert.subarray(slice * floats, (slice + 1) * floats);
}

type Ranks = readonly number[];

/** hosts[chunk], primary first; a host has all slices of an expert. */
export function chunkHosts(hosts: readonly Ranks[], primaries: Ranks, slices: number): number[][] {
  return primaries.map((primary, chunk) => [primary, ...(hosts[expertOf(chunk, slices)] ?? []).filter((rank) => rank !== primary)]);
}

export function chunkBlocks(blocks: Blocks, slices: number): Blocks {
  return blocks.flatMap((runs) => new Array<Blocks[number]>(slices).fill(runs));
}
