// The vector of a text: its last token's row, normalized as by the head, of length 1.
import { firstNotFinite, unusableNumber } from "../schedule/sampling/finite.ts";

/** Throws AppError `UnusableLogits`. */
export function embeddingOf(row: Float32Array, normWeight: Float32Array): Float32Array {
  const bad = firstNotFinite(row);
  if (bad >= 0) throw unusableNumber(`value ${bad} of the row that is to be the embedding`, row[bad] as number);
  const values = Float64Array.from(row, (value, i) => value * (normWeight[i] as number));
  let squares = 0;
  for (const value of values) squares += value * value;
  const length = Math.sqrt(squares);
  if (!(length > 0)) throw unusableNumber("the length of the embedding", length);
  return Float32Array.from(values, (value) => value / length);
}
