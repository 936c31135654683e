// The check of what a step computed: NaN and infinity are no numbers to go on with, so they end the request that they belong to, and
// none of the others. Pure.
import { AppError } from "../../../../crds/common.ts";
import { isGuess, partsOf, type Step } from "../step-plan.ts";

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

/**
 * The requests of a step to whose tokens it gave rows that are not finite, with their errors. `x` [rows, hidden] is what the last layer
 * gave. Rows without logits count too: later tokens would attend to them, and a backend that rounds activations may lose a NaN there.
 * Guesses are looked at one by one when their tokens are chosen: rows after a wrong one are nobody's.
 */
export function unusableRows(step: Pick<Step, "groups">, x: Float32Array, hidden: number): Map<string, AppError> {
  const found = new Map<string, AppError>();
  if (firstNotFinite(x) < 0) return found;
  for (const { id, group, from, past } of partsOf(step)) {
    if (isGuess(group)) continue;
    const rows = x.subarray(from * hidden, (from + group.tokens) * hidden);
    const at = firstNotFinite(rows);
    if (at < 0) continue;
    const position = past + Math.floor(at / hidden);
    found.set(id, unusableNumber(`the row from which the logits of position ${position} come, value ${at % hidden},`, rows[at] as number));
  }
  return found;
}

/** Throws AppError `UnusableLogits` where the row from which an output token comes is not finite. */
export function checkRow(row: Float32Array, position: number): void {
  const at = firstNotFinite(row);
  if (at >= 0) throw unusableNumber(`the row from which output token ${position} comes, value ${at},`, row[at] as number);
}
