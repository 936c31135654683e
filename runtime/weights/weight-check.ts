// The check for weights that no trained model has: NaN, infinity and absurd magnitudes, named by tensor and position. Checkpoints are
// checked as they are read, stores when `inspect --verify` asks; a worker computes with what it is given. Pure.
import { AppError } from "../../crds/common.ts";

/** f16, in which checkpoints are trained and kept, ends at 65,504; what lies far above that are the bytes of something else. */
const weightMagnitudeMax = 1e6;

/** Index of the first value that is NaN, infinite or above `magnitudeMax`; -1 where there is none. */
export function firstUnusable(values: Float32Array, magnitudeMax: number = weightMagnitudeMax): number {
  for (let i = 0; i < values.length; i++) if (!(Math.abs(values[i] as number) <= magnitudeMax)) return i; // NaN compares as false
  return -1;
}

/** The place of value `index` in a row-major tensor: "[3, 17]". */
function positionText(index: number, shape: readonly number[]): string {
  const position: number[] = [];
  let rest = index;
  for (const size of shape.toReversed()) {
    position.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return `[${position.join(", ")}]`;
}

/** Values of a tensor: all of them, or a part that begins with value `first`. */
interface Values {
  /** Of the whole tensor. */
  readonly shape: readonly number[];
  readonly data: Float32Array;
  readonly first?: number;
}

/** The error of a tensor whose value at `index` of the given ones cannot be computed with. `where` names file or folder. */
function unusableWeight(where: string, tensor: string, { shape, data, first = 0 }: Values, index: number): AppError {
  const found = `${data[index]} at ${positionText(first + index, shape)}`;
  return new AppError(
    `${where}: ${tensor} has ${found}; weights are finite and at most ${weightMagnitudeMax}: download or export the model again`,
    { code: "UnusableWeight", operation: "checking weights" },
  );
}

/** Throws AppError `UnusableWeight` for the first value that cannot be computed with. */
export function checkWeights(where: string, tensor: string, weights: Values): void {
  const index = firstUnusable(weights.data);
  if (index >= 0) throw unusableWeight(where, tensor, weights, index);
}
