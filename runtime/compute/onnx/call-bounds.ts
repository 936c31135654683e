// How many rows of an expert may share a call without changing each other's bits.
import type { Segment } from "../../kernels/segment.ts";

const rowsAtOnce = 512;
/** Products of more rows are cut into parts that are added one by one. */
const rowsInPlace = 128;

/** Rows of a multiple of four floats are aligned to vectors. */
const multiple = 4;
/** Threads get multiples of 16 columns, so each has more than 64; below, the library cuts sums differently. */
const columnsOfThread = 96;

export interface CallBounds {
  readonly rowsAtOnce: number;
  readonly rowsInPlace: number;
}

/** Zeros where bits would depend on neighbours: each micro-batch then needs a call of its own. */
export function callBounds({ weights }: Pick<Segment, "weights">, threads: number): CallBounds {
  const least = threads === 1 ? multiple : columnsOfThread * threads;
  const sizes = weights.flatMap(({ shape }) => shape);
  const steady = sizes.every((size) => size % multiple === 0 && size >= least);
  return steady ? { rowsAtOnce, rowsInPlace } : { rowsAtOnce: 0, rowsInPlace: 0 };
}
