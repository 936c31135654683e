// This file defines the forms in which weight matrices are handed about, and answers what shared code asks of any of them. Stores decode
// into these forms and backends compile from them.
import { dequantizeGgml, type GgmlForm, ggmlFormats, isGgmlForm } from "./ggml/index.ts";

/** One weight matrix. */
export type WeightData =
  | { readonly form: "f32"; readonly shape: readonly number[]; readonly data: Float32Array } // row-major
  | GgmlWeight;

/** A matrix as blocks of a ggml type, laid out as in ggml and GGUF: row-major [N, K], K a multiple of the type's block. */
export interface GgmlWeight {
  readonly form: GgmlForm;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export type WeightForm = WeightData["form"];
export type WeightOf<F extends WeightForm> = F extends GgmlForm ? GgmlWeight : Extract<WeightData, { readonly form: F }>;
export type Weights = Readonly<Record<string, WeightData>>;
/** The form of each weight, by its name. */
export type WeightForms = Readonly<Record<string, WeightForm>>;

const isGgml = (weight: WeightData): weight is GgmlWeight => isGgmlForm(weight.form);

/** Values of a block, of which every row has a whole number. */
export function blockOf(form: WeightForm): number {
  return isGgmlForm(form) ? ggmlFormats[form].values : 1;
}

/** Number of values that a matrix holds, by its arrays. */
export function valuesIn(weight: WeightData): number {
  if (!isGgml(weight)) return weight.data.length;
  const { values, bytes } = ggmlFormats[weight.form];
  return (weight.data.length / bytes) * values;
}

/** The values row-major: the matrix's own array where it is f32. */
export function asF32(weight: WeightData): Float32Array {
  return isGgml(weight) ? dequantizeGgml(weight.form, weight.data) : weight.data;
}

/** The values row-major in an array of the caller's own. */
export function copyF32(weight: WeightData): Float32Array {
  return isGgml(weight) ? dequantizeGgml(weight.form, weight.data) : weight.data.slice();
}
