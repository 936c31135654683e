// The check for NaN and infinity, which end their own request only.
import { AppError } from "../../../../crds/common.ts";

const f32Max = 3.4028234663852886e38;

/** A norm makes zeros of a row whose squares are beyond f32. */
export const squaredMost = 2 ** 64 * (1 - 2 ** -24);

/** -1 if there is none; `most`: the largest that counts as finite. */
export function firstNotFinite(values: Float32Array, most = f32Max): number {
  for (let i = 0; i < values.length; i++) if (!(Math.abs(values[i] as number) <= most)) return i; // NaN compares as false
  return -1;
}

/** Blames weights or device, never the client. */
export function unusableNumber(what: string, value: number): AppError {
  return new AppError(`${what} is ${value}: check the model with "enodia model inspect --verify", and the device`, {
    code: "UnusableLogits",
    operation: "computing a token",
  });
}
