// Chunks: what of a layer's experts has one primary, and is copied and summed as one. An expert is cut into slices of one length, and a chunk
// is (layer, expert, slice). Its number, its range of the expert's floats, and what it has from its expert are told here alone. Pure.
import type { Blocks } from "./blocks.ts";

/** Slices that each expert is cut into. */
export const slicesPerExpert = 1;

/** The number of a chunk among those of its layer, by which primaries, schedules and frames name it: slices of an expert follow one another. */
export const chunkOf = (expert: number, slice: number, slices: number): number => expert * slices + slice;

export const expertOf = (chunk: number, slices: number): number => Math.floor(chunk / slices);

/** The part of its expert's floats that a chunk has. Throws TypeError where slices would be of unequal length. */
export function chunkIn(expert: Float32Array, chunk: number, slices: number): Float32Array {
  const floats = expert.length / slices;
  if (!Number.isInteger(floats)) throw new TypeError(`an expert of ${expert.length} floats cannot be cut into ${slices} equal slices`);
  const slice = chunk % slices;
  return expert.subarray(slice * floats, (slice + 1) * floats);
}

type Ranks = readonly number[];

/** hosts[chunk], primary first: a host computes with whole experts, so that it has all slices of those that it hosts. */
export function chunkHosts(hosts: readonly Ranks[], primaries: Ranks, slices: number): number[][] {
  return primaries.map((primary, chunk) => [primary, ...(hosts[expertOf(chunk, slices)] ?? []).filter((rank) => rank !== primary)]);
}

/** blocks[chunk]: whoever computed an expert's rows has the gradients of all its slices. */
export function chunkBlocks(blocks: Blocks, slices: number): Blocks {
  return blocks.flatMap((runs) => new Array<Blocks[number]>(slices).fill(runs));
}
