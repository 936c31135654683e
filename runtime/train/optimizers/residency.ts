// The places of an optimizer's state when memory is for less than all of it: the first floats of each array stay, the rest is a file in
// chunks, each the same range of every array; and the order in which an update takes them, so that one is read and another written
// while a third, or what stays, is computed. Pure.
import { AppError } from "../../../crds/common.ts";

const floatBytes = Float32Array.BYTES_PER_ELEMENT;
/** Chunks that are in memory at once: one is read, one computed, one written. */
export const chunkBuffers = 3;
/** A page of files: chunks are whole ones. */
const pageFloats = 1024;
/** Floats of an array in a chunk, at most: longer reads and writes are no faster. */
const chunkFloatsMax = 2 ** 20;

export interface Residency {
  /** Floats of each array, of which the first `resident` stay in memory. */
  readonly floats: number;
  readonly resident: number;
  /** Floats of each array in a chunk of the rest, but for the last; 0 where nothing is left. */
  readonly chunk: number;
}

/** Everything in memory. */
export const wholeResidency = (floats: number): Residency => ({ floats, resident: floats, chunk: 0 });

export const chunksOf = ({ floats, resident, chunk }: Residency): number => (chunk === 0 ? 0 : Math.ceil((floats - resident) / chunk));

/** Floats of each array that memory has: what stays, then the buffers. */
export const heldFloats = ({ resident, chunk }: Residency, buffers = chunkBuffers): number => resident + buffers * chunk;

/** The least that `arrays` arrays can be given. */
export const leastBytes = (arrays: number): number => chunkBuffers * pageFloats * arrays * floatBytes;

/** At most `bytes` of memory for `arrays` arrays of `floats`; buffers have half of it at most. Throws AppError `BadOption`. */
export function residencyOf(floats: number, arrays: number, bytes: number): Residency {
  const each = arrays * floatBytes;
  if (floats * each <= bytes) return wholeResidency(floats);
  checkOptimizerMemory(arrays, bytes);
  const pages = (share: number): number => Math.floor(share / each / pageFloats) * pageFloats;
  const chunk = Math.min(chunkFloatsMax, Math.max(pageFloats, pages(bytes / 2 / chunkBuffers)));
  return { floats, resident: pages(bytes - chunkBuffers * chunk * each), chunk };
}

/** `stores`: among which the memory is shared. */
export function checkOptimizerMemory(arrays: number, bytes: number, stores = 1): void {
  const least = stores * leastBytes(arrays);
  if (Number.isSafeInteger(bytes) && bytes >= least) return;
  throw new AppError(
    `--optimizer-memory is ${bytes}; it must be a whole number of bytes, at least ${least}, or left out to keep all in memory`,
    { code: "BadOption", operation: "reading the settings of a run" },
  );
}

/** A range of parameters, in multiples of four. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/** Part of an update: ranges of one chunk of the file, or of what stays. */
export interface Work<R extends Range> {
  readonly chunk: number | undefined;
  readonly ranges: readonly R[];
}

/** What of a range lies in from..to-1. */
const cut = <R extends Range>(range: R, from: number, to: number): R => ({
  ...range,
  from: Math.max(range.from, from),
  to: Math.min(range.to, to),
});

const lengthOf = (ranges: readonly Range[]): number => ranges.reduce((sum, { from, to }) => sum + to - from, 0);

/** The place of a float: its chunk in the file, or undefined for what stays, and where that ends. */
function placeOf({ floats, resident, chunk }: Residency, at: number): { readonly chunk: number | undefined; readonly end: number } {
  if (at < resident) return { chunk: undefined, end: resident };
  const index = Math.floor((at - resident) / chunk);
  return { chunk: index, end: Math.min(floats, resident + (index + 1) * chunk) };
}

/** Each range by the chunk that it lies in, cut where chunks meet; of what stays, in pieces of a chunk at most. */
function worksOf<R extends Range>(
  residency: Residency,
  ranges: readonly R[],
): { readonly resident: R[]; readonly chunks: Map<number, R[]> } {
  const [resident, chunks]: [R[], Map<number, R[]>] = [[], new Map()];
  for (const range of ranges)
    for (let at = range.from; at < range.to; ) {
      const { chunk, end } = placeOf(residency, at);
      const to = chunk === undefined && residency.chunk > 0 ? Math.min(end, at + residency.chunk) : end;
      const part = cut(range, at, to);
      if (chunk === undefined) resident.push(part);
      else chunks.set(chunk, [...(chunks.get(chunk) ?? []), part]);
      at = part.to;
    }
  return { resident, chunks };
}

/**
 * All ranges, each float once. Chunks come in the order of the file; what stays is dealt evenly behind each of them, so that there is
 * something to compute while the next is read.
 */
export function updateOrder<R extends Range>(residency: Residency, ranges: readonly R[]): readonly Work<R>[] {
  const { resident, chunks } = worksOf(residency, ranges);
  const inFile = [...chunks].sort(([a], [b]) => a - b);
  const share = lengthOf(resident) / Math.max(1, inFile.length);
  const works: Work<R>[] = [];
  let [next, done] = [0, 0];
  for (const [i, [chunk, own]] of inFile.entries()) {
    works.push({ chunk, ranges: own });
    const begin = next;
    for (; next < resident.length && done < (i + 1) * share; next++) done += lengthOf(resident.slice(next, next + 1));
    if (next > begin) works.push({ chunk: undefined, ranges: resident.slice(begin, next) });
  }
  if (next < resident.length) works.push({ chunk: undefined, ranges: resident.slice(next) });
  return works;
}
