// The check of what a step computed: NaN and infinity are no numbers to go on with, so they end the request that they belong to, and none
// of the others.
import { AppError } from "../../../../crds/common.ts";

const f32Max = 3.4028234663852886e38;

/** Index of the first value that is NaN or infinite; -1 where there is none. */
export function firstNotFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) if (!(Math.abs(values[i] as number) <= f32Max)) return i; // NaN compares as false
  return -1;
}

/** The error that ends a request. Its weights, or the device that computed with them, are at fault, never the client. */
export function unusableNumber(what: string, value: number): AppError {
  return new AppError(`${what} is ${value}: check the model with "enodia model inspect --verify", and the device`, {
    code: "UnusableLogits",
    operation: "computing a token",
  });
}
