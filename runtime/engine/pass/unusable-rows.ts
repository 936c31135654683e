// Finds the requests of a step with rows that are not finite.
import type { AppError } from "../../../crds/common.ts";
import { firstNotFinite, unusableNumber } from "../schedule/sampling/finite.ts";
import { isGuess, partsOf, type Step } from "../schedule/step-plan.ts";

/** Errors by request. Rows without logits count too: later tokens would attend to them, and a rounding backend may lose a NaN there. */
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

/** Throws AppError `UnusableLogits`. */
export function checkRow(row: Float32Array, position: number): void {
  const at = firstNotFinite(row);
  if (at >= 0) throw unusableNumber(`the row from which output token ${position} comes, value ${at},`, row[at] as number);
}
