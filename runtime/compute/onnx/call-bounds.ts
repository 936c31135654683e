// Rows of an expert that may share a call with no effect on one another's bits.
import type { Segment } from "../../kernels/segment.ts";

/** Rows of several lanes that are computed in one call, at most. */
const rowsAtOnce = 512;
/** Rows whose gradients are added to a sum in place, at most: products of more are cut into parts, each of which is added. */
const rowsInPlace = 128;

/** Rows of a multiple of four floats all begin where vectors do. */
const multiple = 4;
/** Columns for each thread: shares are of 16, so each has more than 64, below which the library cuts sums elsewhere. */
const columnsOfThread = 96;

export interface CallBounds {
  readonly rowsAtOnce: number;
  readonly rowsInPlace: number;
}

/** Zeros where bits would depend on neighbours: each lane's rows are a call then, and their gradients are summed apart. */
export function callBounds({ weights }: Pick<Segment, "weights">, threads: number): CallBounds {
  const least = threads === 1 ? multiple : columnsOfThread * threads;
  const sizes = weights.flatMap(({ shape }) => shape);
  const steady = sizes.every((size) => size % multiple === 0 && size >= least);
  return steady ? { rowsAtOnce, rowsInPlace } : { rowsAtOnce: 0, rowsInPlace: 0 };
}
