// The check for NaN and infinity, which end their own request only.
import { AppError } from "../../../../crds/common.ts";

const f32Max = 3.4028234663852886e38;

/** -1 if there is none. */
export function firstNotFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) if (!(Math.abs(values[i] as number) <= f32Max)) return i; // NaN compares as false
  return -1;
}

/** Blames weights or device, never the client. */
export function unusableNumber(what: string, value: number): AppError {
  return new AppError(`${what} is ${value}: check the model with "enodia model inspect --verify", and the device`, {
    code: "UnusableLogits",
    operation: "computing a token",
  });
}
