// Detects NaN, infinite and absurd weights, by tensor and position. Checkpoint reads and `inspect --verify` call it; workers do not.
import { AppError } from "../../crds/common.ts";
import { boundedByScales } from "../kernels/ggml/index.ts";
import { asF32, isGgml, type WeightData } from "../kernels/weights.ts";

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

/** Throws AppError `UnusableWeight` for the first unusable value. `weight` has the whole tensor's shape and its values from `first` on. */
export function checkWeights(where: string, tensor: string, weight: WeightData, first = 0): void {
  if (isGgml(weight) && boundedByScales(weight.form, weight.data)) return;
  const data = asF32(weight);
  const index = firstUnusable(data);
  if (index < 0) return;
  const found = `${data[index]} at ${positionText(first + index, weight.shape)}`;
  throw new AppError(
    `${where}: ${tensor} has ${found}; weights are finite and at most ${weightMagnitudeMax}: download or export the model again`,
    { code: "UnusableWeight", operation: "checking weights" },
  );
}
