// Rows of a layer's experts between ranks: which blocks go where, and their frames. All follows from counts and blocks, so frames hold
// numbers alone.
import type { Blocks } from "../../placement/training/blocks.ts";
import { type Interval, ranksOfMicroBatches } from "../../placement/training/micro-batches.ts";

export interface RowBlock {
  readonly microBatch: number;
  readonly expert: number;
  readonly rows: number;
}

/** Blocks in the order of experts, then micro-batches, by source and computing rank. */
export class RowPlan {
  readonly #blocks = new Map<string, RowBlock[]>();

  /** `counts[micro-batch][expert]` */
  constructor(counts: readonly ArrayLike<number>[], blocks: Blocks, intervals: readonly Interval[]) {
    const rankOf = ranksOfMicroBatches(intervals);
    for (const [expert, runs] of blocks.entries())
      for (const [microBatch, row] of counts.entries()) {
        const host = runs.find(({ from, to }) => from <= microBatch && microBatch < to)?.host;
        const rows = row[expert] as number;
        if (host === undefined || rows === 0) continue;
        const key = `${rankOf[microBatch]} ${host}`;
        const list = this.#blocks.get(key);
        if (list === undefined) this.#blocks.set(key, [{ microBatch, expert, rows }]);
        else list.push({ microBatch, expert, rows });
      }
  }

  between(source: number, host: number): readonly RowBlock[] {
    return this.#blocks.get(`${source} ${host}`) ?? [];
  }
}

/** Groups adjacent blocks of one expert into calls of at most `max` rows; a larger block is a call of its own. */
export function callsOf<T extends { readonly block: RowBlock }>(pieces: readonly T[], max: number): T[][] {
  const calls: T[][] = [];
  let rows = 0;
  for (const piece of pieces) {
    const call = calls.at(-1);
    if (call?.[0]?.block.expert === piece.block.expert && rows + piece.block.rows <= max) {
      call.push(piece);
      rows += piece.block.rows;
      continue;
    }
    calls.push([piece]);
    rows = piece.block.rows;
  }
  return calls;
}

export function concatenated(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0] as Float32Array;
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export function packed(blocks: readonly RowBlock[], rowsOf: (block: RowBlock) => Float32Array): Float32Array {
  return concatenated(blocks.map(rowsOf));
}

export function* unpacked(blocks: readonly RowBlock[], width: number, frame: Float32Array) {
  let at = 0;
  for (const block of blocks) {
    const data = frame.subarray(at, at + block.rows * width);
    at += block.rows * width;
    yield { block, data };
  }
}

/** The place of a token's k-th expert is token * topK + k. */
export interface PlaceShape {
  readonly topK: number;
  readonly width: number;
}

/** The places of each expert, in token order. */
export function placesByExpert(ids: Int32Array, experts: number): readonly number[][] {
  const places = Array.from({ length: experts }, (): number[] => []);
  for (const [place, id] of ids.entries()) places[id]?.push(place);
  return places;
}

/** The first `width` values of the rows at these places; each row has `stride`. */
export function gathered(rows: Float32Array, places: readonly number[], { topK, width }: PlaceShape, stride = width): Float32Array {
  const found = new Float32Array(places.length * width);
  for (const [to, place] of places.entries()) {
    const from = Math.floor(place / topK) * stride;
    found.set(rows.subarray(from, from + width), to * width);
  }
  return found;
}

export function scatter(rows: Float32Array, places: readonly number[], width: number, into: Float32Array): void {
  for (const [from, place] of places.entries()) into.set(rows.subarray(from * width, (from + 1) * width), place * width);
}

/** Adds the values at its places to each row's first `width` values, in order, times their gates if any. */
export function addPlaces(rows: Float32Array, places: Float32Array, { topK, width }: PlaceShape, gates?: Float32Array): void {
  const tokens = places.length / width / topK;
  const stride = rows.length / Math.max(1, tokens);
  for (let place = 0; place * width < places.length; place++) {
    const gate = gates?.[place] ?? 1;
    let to = Math.floor(place / topK) * stride;
    for (let from = place * width; from < (place + 1) * width; from++, to++)
      rows[to] = (rows[to] as number) + Math.fround(gate * (places[from] as number));
  }
}
