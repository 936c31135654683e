// Places optimizer state that exceeds its memory: the first floats of each array stay in memory, the rest is a file in chunks.
import { AppError } from "../../../crds/common.ts";

const floatBytes = Float32Array.BYTES_PER_ELEMENT;
export const chunkBuffers = 3;
const pageFloats = 1024;
/** Longer reads and writes are no faster. */
const chunkFloatsMax = 2 ** 20;

export interface Residency {
  /** Floats of each array; the first `resident` stay in memory. */
  readonly floats: number;
  readonly resident: number;
  /** Floats of each array in a chunk; 0 if all are in memory. */
  readonly chunk: number;
}

export const wholeResidency = (floats: number): Residency => ({ floats, resident: floats, chunk: 0 });

export const chunksOf = ({ floats, resident, chunk }: Residency): number => (chunk === 0 ? 0 : Math.ceil((floats - resident) / chunk));

export const heldFloats = ({ resident, chunk }: Residency, buffers = chunkBuffers): number => resident + buffers * chunk;

export const leastBytes = (arrays: number): number => chunkBuffers * pageFloats * arrays * floatBytes;

/** At most `bytes` of memory for `arrays` arrays of `floats`, half of it for buffers. Throws AppError `BadOption`. */
export function residencyOf(floats: number, arrays: number, bytes: number): Residency {
  const each = arrays * floatBytes;
  if (floats * each <= bytes) return wholeResidency(floats);
  checkOptimizerMemory(arrays, bytes);
  const pages = (share: number): number => Math.floor(share / each / pageFloats) * pageFloats;
  const chunk = Math.min(chunkFloatsMax, Math.max(pageFloats, pages(bytes / 2 / chunkBuffers)));
  return { floats, resident: pages(bytes - chunkBuffers * chunk * each), chunk };
}

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

export interface Work<R extends Range> {
  readonly chunk: number | undefined;
  readonly ranges: readonly R[];
}

const cut = <R extends Range>(range: R, from: number, to: number): R => ({
  ...range,
  from: Math.max(range.from, from),
  to: Math.min(range.to, to),
});

const lengthOf = (ranges: readonly Range[]): number => ranges.reduce((sum, { from, to }) => sum + to - from, 0);

function placeOf({ floats, resident, chunk }: Residency, at: number): { readonly chunk: number | undefined; readonly end: number } {
  if (at < resident) return { chunk: undefined, end: resident };
  const index = Math.floor((at - resident) / chunk);
  return { chunk: index, end: Math.min(floats, resident + (index + 1) * chunk) };
}

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
 * All ranges, each float once, chunks in file order. Resident pieces are dealt evenly between them, so that there is work during each
 * read.
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
