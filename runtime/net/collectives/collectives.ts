// The collectives of training on one rank: copies of chunks, sums of gradients in the order of micro-batches, and all-to-all
// exchanges. placement/training makes the schedules.
import {
  type Edges,
  gatherSchedule,
  type Placement,
  type Reduction,
  reduceSchedule,
  type Transfer,
} from "../../placement/training/collectives.ts";
import type { FrameName, Payload, Stamp, Transport } from "./transport.ts";

/** 1 MiB: large enough for a frame, small enough to pipeline along a chain. */
const pieceFloats = 2 ** 18;

export const piecesOf = (floats: number): number => Math.max(1, Math.ceil(floats / pieceFloats));

function pieceOf(chunk: Float32Array, piece: number, pieces: number): Float32Array {
  const floats = Math.ceil(chunk.length / pieces);
  return chunk.subarray(Math.min(chunk.length, piece * floats), Math.min(chunk.length, (piece + 1) * floats));
}

interface Collective {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly layer: number;
  readonly pieces: number;
}

export interface Gather extends Collective {
  /** Distinguishes the frames of forward and backward. */
  readonly what: string;
  readonly placement: Placement;
  /** Unset: a chain. */
  readonly edges?: Edges;
  memory(chunk: number): Float32Array;
}

/** spAG: afterwards this rank has all its chunks, with the primary's bits. */
export async function gather({ transport, stamp, layer, pieces, what, placement, edges, memory }: Gather): Promise<void> {
  for (const { from, to, chunk, piece } of transfersOf(transport, gatherSchedule(placement, pieces, edges))) {
    const name = { what, layer, chunk, piece };
    const part = pieceOf(memory(chunk), piece, pieces);
    if (from === transport.rank) await transport.send(to, stamp, name, part);
    else part.set((await transport.receive(from, stamp, { what, layer, chunk, piece, length: part.length })) as Float32Array);
  }
}

/** Within a round a rank sends before it waits. */
function transfersOf({ rank }: Transport, transfers: readonly Transfer[]): readonly Transfer[] {
  const own = transfers.filter(({ from, to }) => from === rank || to === rank);
  return own.sort((a, b) => a.round - b.round || Number(a.to === rank) - Number(b.to === rank));
}

export interface Reduce extends Collective, Reduction {
  /** The partial sums are in order; the list is empty if `memory` already has them, at a primary that is first. */
  partials(chunk: number): readonly Float32Array[];
  memory(chunk: number): Float32Array;
}

/** spRS: afterwards the primaries have the sums, added in order. */
export async function reduce(given: Reduce): Promise<void> {
  const { transport, stamp, layer, pieces, blocks, primaries, carried, memory } = given;
  const { rank } = transport;
  const sums = new Map<number, Float32Array>();
  for (const [chunk, runs] of blocks.entries()) {
    const primary = primaries[chunk] === rank;
    if (!runs.some(({ host }) => host === rank)) continue;
    const sum = primary ? memory(chunk) : new Float32Array(given.partials(chunk)[0]?.length ?? 0);
    sums.set(chunk, sum);
    if (runs[0]?.host === rank && (primary || !carried)) addAll(sum, given.partials(chunk));
  }
  for (const { from, to, chunk, piece } of transfersOf(transport, reduceSchedule(given, pieces))) {
    const name = { what: "sums", layer, chunk, piece };
    if (from === rank) {
      await transport.send(to, stamp, name, pieceOf(sums.get(chunk) ?? memory(chunk), piece, pieces));
      continue;
    }
    const runs = blocks[chunk] ?? [];
    // The last host sends the whole sum to the primary; earlier hosts send the value that this rank continues.
    const whole = primaries[chunk] === rank && runs.at(-1)?.host === from;
    const part = pieceOf(whole ? memory(chunk) : (sums.get(chunk) as Float32Array), piece, pieces);
    part.set((await transport.receive(from, stamp, { what: "sums", layer, chunk, piece, length: part.length })) as Float32Array);
    if (whole) continue;
    addAll(
      part,
      given.partials(chunk).map((partial) => pieceOf(partial, piece, pieces)),
    );
  }
}

export function addAll(sum: Float32Array, arrays: readonly Float32Array[]): void {
  for (const array of arrays) for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (array[i] as number);
}

export interface ExchangeName extends Pick<FrameName, "what" | "layer"> {
  lengthFrom(rank: number): number;
}

/** Returns each rank's payload for this one. */
export async function exchange<T extends Payload>(
  transport: Transport,
  stamp: Stamp,
  { what, layer, lengthFrom }: ExchangeName,
  parts: readonly T[],
): Promise<T[]> {
  const frame = { what, layer, chunk: 0, piece: 0 };
  // All sends start at once, so that no connection waits for another.
  const sent = parts.map(async (part, to) => {
    if (to !== transport.rank) await transport.send(to, stamp, frame, part);
  });
  const received = parts.map(async (own, from) => {
    if (from === transport.rank) return own;
    return (await transport.receive(from, stamp, { what, layer, chunk: 0, piece: 0, length: lengthFrom(from) })) as T;
  });
  const [found] = await Promise.all([Promise.all(received), Promise.all(sent)]);
  return found;
}

export function gatherAll<T extends Payload>(transport: Transport, stamp: Stamp, name: ExchangeName, part: T): Promise<T[]> {
  return exchange(transport, stamp, name, new Array<T>(transport.ranks).fill(part));
}
