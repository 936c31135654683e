// The time until a prompt's first token over ranks, from measured rates: as it is, with its heads over ranks, and with its tokens too. Pure.
import { type Heads, headGroups } from "../../../runtime/kernels/head-groups.ts";
import { allToAllBytes, linkBytes } from "./heads.ts";

/** As it is: experts alone are on all ranks. Heads: of the prompt's attention too. Tokens: all else is computed where its tokens are. */
export type Way = "as it is" | "heads" | "tokens";

export interface Shape extends Heads {
  readonly layers: number;
  readonly hidden: number;
  readonly topK: number;
}

/** Milliseconds of one thread for a row of a layer. */
export interface Rates {
  /** What is neither attention nor experts. */
  readonly dense: number;
  readonly experts: number;
  /** By the number of ranks that share heads: of the rank that has most, with nothing before the row, and more for each position. */
  readonly attention: ReadonlyMap<number, { readonly first: number; readonly position: number }>;
}

export interface World {
  readonly ranks: number;
  /** Threads of each, at the speed of one each. */
  readonly threads: number;
  /** Bytes a millisecond, each way, of each rank. */
  readonly link: number;
  /** Milliseconds until a frame is answered that has next to nothing in it. */
  readonly messageMs: number;
}

const f32Bytes = 4;
/** Milliseconds of a piece of rows, with each of which a frame goes to each rank. */
const pieceMs = 20;

/** Rows go once to each rank that has an expert of theirs, and come back from each expert. */
function expertBytes({ hidden, topK }: Shape, ranks: number): number {
  const asked = (ranks - 1) * (1 - (1 - 1 / ranks) ** topK);
  const answered = (topK * (ranks - 1)) / ranks;
  return hidden * f32Bytes * Math.max(asked, answered);
}

/** Milliseconds of a layer, in which no rank computes while its rows are on a link. */
export function layerMs(shape: Shape, rates: Rates, tokens: number, way: Way, { ranks, threads, link, messageMs }: World): number {
  const sharing = way === "as it is" ? 1 : Math.min(ranks, shape.kvHeads);
  const { first, position } = rates.attention.get(sharing) ?? { first: Number.NaN, position: Number.NaN };
  const [dense, attention] = [tokens * rates.dense, tokens * (first + (position * tokens) / 2)];
  const computed = (way === "tokens" ? dense / ranks : dense) + attention + (tokens * rates.experts) / ranks;
  const hosts = way === "tokens" ? ranks : 1;
  const bytes = spreadBytes(shape, tokens, way, ranks) + (tokens * expertBytes(shape, ranks)) / hosts;
  const frames = way === "as it is" || ranks === 1 ? 0 : Math.ceil(computed / threads / pieceMs);
  return computed / threads + bytes / link + frames * messageMs;
}

/** Bytes on the busiest link for attention in a layer; keys and values end at the prompt's own rank in any case. */
export function spreadBytes(shape: Shape, tokens: number, way: Way, ranks: number): number {
  if (way === "as it is") return 0;
  const share = tokens / ranks;
  const kept = way === "tokens" ? (tokens - share) * shape.kvHeads * (shape.headDim + shape.valueDim) * f32Bytes : 0;
  const each = Array.from({ length: ranks }, (_, rank) => (way === "tokens" ? share : rank === 0 ? tokens : 0));
  return linkBytes(allToAllBytes(shape, each)) + kept;
}

const lengthMost = 2 ** 20;

/** The fewest tokens, a power of two, from which a way is so many times as fast as it is; undefined: up to a million it never is. */
export function paysFrom(shape: Shape, rates: Rates, way: Way, world: World, least: number): number | undefined {
  for (let tokens = 16; tokens <= lengthMost; tokens *= 2)
    if (layerMs(shape, rates, tokens, "as it is", world) >= least * layerMs(shape, rates, tokens, way, world)) return tokens;
  return undefined;
}

/** Numbers of ranks whose groups have rates of their own. */
export const sharings = (shape: Heads, ranks: readonly number[]): number[] => [
  ...new Set([1, ...ranks.map((each) => headGroups(shape, each).length)]),
];
