// Detects NaN, infinite and absurd weights, by tensor and position. Checkpoint reads and `inspect --verify` call it; workers do not.
import { AppError } from "../../crds/common.ts";

/** f16 ends at 65,504; far larger values are other bytes. */
const weightMagnitudeMax = 1e6;

/** Index of the first value that is NaN, infinite or above `magnitudeMax`; -1 without one. */
export function firstUnusable(values: Float32Array, magnitudeMax: number = weightMagnitudeMax): number {
  for (let i = 0; i < values.length; i++) if (!(Math.abs(values[i] as number) <= magnitudeMax)) return i; // NaN compares as false
  return -1;
}

/** "[3, 17]". */
function positionText(index: number, shape: readonly number[]): string {
  const position: number[] = [];
  let rest = index;
  for (const size of shape.toReversed()) {
    position.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return `[${position.join(", ")}]`;
}

interface Values {
  /** The whole tensor's shape. */
  readonly shape: readonly number[];
  readonly data: Float32Array;
  readonly first?: number;
}

/** `index` counts within the given values. */
function unusableWeight(where: string, tensor: string, { shape, data, first = 0 }: Values, index: number): AppError {
  const found = `${data[index]} at ${positionText(first + index, shape)}`;
  return new AppError(
    `${where}: ${tensor} has ${found}; weights are finite and at most ${weightMagnitudeMax}: download or export the model again`,
    { code: "UnusableWeight", operation: "checking weights" },
  );
}

/** Throws AppError `UnusableWeight` for the first unusable value. */
export function checkWeights(where: string, tensor: string, weights: Values): void {
  const index = firstUnusable(weights.data);
  if (index >= 0) throw unusableWeight(where, tensor, weights, index);
}
