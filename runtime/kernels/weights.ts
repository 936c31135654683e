// The forms of weight matrices: stores decode into them and backends compile from them.
import { dequantizeGgml, type GgmlForm, ggmlFormats, isGgmlForm } from "./ggml/index.ts";

export type WeightData =
  | { readonly form: "f32"; readonly shape: readonly number[]; readonly data: Float32Array } // row-major
  | GgmlWeight;

/** Blocks of a ggml type, as in ggml and GGUF: row-major [N, K], K a multiple of the block. */
export interface GgmlWeight {
  readonly form: GgmlForm;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export type WeightForm = WeightData["form"];
export type WeightOf<F extends WeightForm> = F extends GgmlForm ? GgmlWeight : Extract<WeightData, { readonly form: F }>;
export type Weights = Readonly<Record<string, WeightData>>;
export type WeightForms = Readonly<Record<string, WeightForm>>;

export const isGgml = (weight: WeightData): weight is GgmlWeight => isGgmlForm(weight.form);

/** Values per block. */
export function blockOf(form: WeightForm): number {
  return isGgmlForm(form) ? ggmlFormats[form].values : 1;
}

/** The number of values in its arrays. */
export function valuesIn(weight: WeightData): number {
  if (!isGgml(weight)) return weight.data.length;
  const { values, bytes } = ggmlFormats[weight.form];
  return (weight.data.length / bytes) * values;
}

/** Row-major; an f32 matrix's own array, without a copy. */
export function asF32(weight: WeightData): Float32Array {
  return isGgml(weight) ? dequantizeGgml(weight.form, weight.data) : weight.data;
}

/** Row-major, in an array of the caller's own. */
export function copyF32(weight: WeightData): Float32Array {
  return isGgml(weight) ? dequantizeGgml(weight.form, weight.data) : weight.data.slice();
}
