// The collectives of training as one rank carries them out: copies of chunks by a schedule, sums of gradients along the chain of a
// chunk's hosts in the order of lanes, and exchanges among all ranks. Shell; placement/training has the schedules.
import {
  gatherSchedule,
  type Placement,
  type Reduction,
  reduceSchedule,
  type SpreadName,
  type Transfer,
} from "../../placement/training/collectives.ts";
import type { FrameName, Payload, Stamp, Transport } from "./transport.ts";

/** Floats of a piece, 1 MiB: long enough for its frame, short enough that a chain of ranks works on several pieces at once. */
const pieceFloats = 2 ** 18;

/** Pieces that chunks of so many floats are cut into. */
export const piecesOf = (floats: number): number => Math.max(1, Math.ceil(floats / pieceFloats));

function pieceOf(chunk: Float32Array, piece: number, pieces: number): Float32Array {
  const floats = Math.ceil(chunk.length / pieces);
  return chunk.subarray(Math.min(chunk.length, piece * floats), Math.min(chunk.length, (piece + 1) * floats));
}

/** One layer's collective of one step. */
interface Turn {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly layer: number;
  readonly pieces: number;
}

export interface Gather extends Turn {
  /** Names the frames: copies come once for forward, and once more for backward where they were dropped. */
  readonly what: string;
  readonly placement: Placement;
  readonly spread: SpreadName;
  /** The memory of a chunk: what a primary has, and where a copy is to be. */
  memory(chunk: number): Float32Array;
}

/** spAG: when it is done, each chunk that this rank is to have is in memory, with the primary's bits. */
export async function gather({ transport, stamp, layer, pieces, what, placement, spread, memory }: Gather): Promise<void> {
  for (const { from, to, chunk, piece } of turnsOf(transport, gatherSchedule(placement, spread, pieces))) {
    const name = { what, layer, chunk, piece };
    const part = pieceOf(memory(chunk), piece, pieces);
    if (from === transport.rank) await transport.send(to, stamp, name, part);
    else part.set((await transport.receive(from, stamp, { what, layer, chunk, piece, length: part.length })) as Float32Array);
  }
}

/** Transfers that this rank has a part in; within a round it sends before it waits. */
function turnsOf({ rank }: Transport, transfers: readonly Transfer[]): readonly Transfer[] {
  const own = transfers.filter(({ from, to }) => from === rank || to === rank);
  return own.sort((a, b) => a.round - b.round || Number(a.to === rank) - Number(b.to === rank));
}

export interface Reduce extends Turn, Reduction {
  /** The chunk's gradient of each lane of this rank's run, in order; none where `memory` has them already, at a primary that is first. */
  partials(chunk: number): readonly Float32Array[];
  /** Where the sum is to be, at the primary: zeros, or the sum of lanes before. */
  memory(chunk: number): Float32Array;
}

/** spRS: when it is done, the primaries of chunks have the sums over lanes, each lane added to those before it. */
export async function reduce(turn: Reduce): Promise<void> {
  const { transport, stamp, layer, pieces, blocks, primaries, carried, memory } = turn;
  const { rank } = transport;
  const sums = new Map<number, Float32Array>();
  for (const [chunk, runs] of blocks.entries()) {
    const primary = primaries[chunk] === rank;
    if (!runs.some(({ host }) => host === rank)) continue;
    const sum = primary ? memory(chunk) : new Float32Array(turn.partials(chunk)[0]?.length ?? 0);
    sums.set(chunk, sum);
    if (runs[0]?.host === rank && (primary || !carried)) addAll(sum, turn.partials(chunk));
  }
  for (const { from, to, chunk, piece } of turnsOf(transport, reduceSchedule(turn, pieces))) {
    const name = { what: "sums", layer, chunk, piece };
    if (from === rank) {
      await transport.send(to, stamp, name, pieceOf(sums.get(chunk) ?? memory(chunk), piece, pieces));
      continue;
    }
    const runs = blocks[chunk] ?? [];
    // From the last host the whole sum comes primary; from those before, what this rank's lanes are added to.
    const whole = primaries[chunk] === rank && runs.at(-1)?.host === from;
    const part = pieceOf(whole ? memory(chunk) : (sums.get(chunk) as Float32Array), piece, pieces);
    part.set((await transport.receive(from, stamp, { what: "sums", layer, chunk, piece, length: part.length })) as Float32Array);
    if (whole) continue;
    addAll(
      part,
      turn.partials(chunk).map((partial) => pieceOf(partial, piece, pieces)),
    );
  }
}

/** Adds arrays to a sum, one after another. */
export function addAll(sum: Float32Array, arrays: readonly Float32Array[]): void {
  for (const array of arrays) for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (array[i] as number);
}

/** An exchange among all ranks. */
export interface ExchangeName extends Pick<FrameName, "what" | "layer"> {
  /** Numbers that a rank sends to this one. */
  lengthFrom(rank: number): number;
}

/** Each rank gives one part to each, its own among them; returns what each gave this one. */
export async function exchange<T extends Payload>(
  transport: Transport,
  stamp: Stamp,
  { what, layer, lengthFrom }: ExchangeName,
  parts: readonly T[],
): Promise<T[]> {
  const frame = { what, layer, chunk: 0, piece: 0 };
  // All ways at once: no link waits for another one's.
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

/** What every rank gave, by rank. */
export function gatherAll<T extends Payload>(transport: Transport, stamp: Stamp, name: ExchangeName, part: T): Promise<T[]> {
  return exchange(transport, stamp, name, new Array<T>(transport.ranks).fill(part));
}
