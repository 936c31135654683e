// This file defines the forms in which weight matrices are handed about, and answers what shared code asks of any of them.
// Stores decode into these forms and backends compile from them; neither knows the other. Pure.
//
// A form says how a matrix lies in memory. Which codec stored it is nothing that a backend sees, and a new codec may well decode
// into a form that exists. Code that multiplies by a matrix has to tell forms apart; it does so with `byPlainForm` or with a table
// `Record<PlainForm, ...>`, so that a new form does not compile before every place says what becomes of it. The types of ggml are
// one form to them, which a table (ggml/index.ts) tells apart: an engine that takes one takes all, or widens what it does not take.
import { dequantizeGgml, type GgmlForm, ggmlFormats, isGgmlForm } from "./ggml/index.ts";

/** Values of a block of int4, along the last axis. */
export const blockSize = 32;

/** One weight matrix. */
export type WeightData =
  | { readonly form: "f32"; readonly shape: readonly number[]; readonly data: Float32Array } // row-major
  | {
      readonly form: "int4"; // w = (q - z) * s per block of 32 along the last axis
      readonly shape: readonly number[]; // logical [N, K], K a multiple of 32
      readonly q: Uint8Array; // [N, K/32, 16] two values a byte, low nibble first
      readonly s: Float32Array; // [N, K/32]
      readonly z: Uint8Array; // [N, K/32] one zero point a byte, 0..15
    }
  | GgmlWeight;

/** A matrix as blocks of a ggml type, laid out as in ggml and GGUF: row-major [N, K], K a multiple of the type's block. */
export interface GgmlWeight {
  readonly form: GgmlForm;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export type WeightForm = WeightData["form"];
/** The forms of engines that know no type of ggml. */
export type PlainForm = Exclude<WeightForm, GgmlForm>;
export type WeightOf<F extends WeightForm> = F extends GgmlForm ? GgmlWeight : Extract<WeightData, { readonly form: F }>;
export type PlainWeight = WeightOf<PlainForm>;
export type Weights = Readonly<Record<string, WeightData>>;
/** The form of each weight, by its name. */
export type WeightForms = Readonly<Record<string, WeightForm>>;
export type PlainWeights = Readonly<Record<string, PlainWeight>>;

type ByPlainForm<R> = { readonly [F in PlainForm]: (weight: WeightOf<F>) => R };
type ByForm<R> = ByPlainForm<R> & { readonly ggml: (weight: GgmlWeight) => R };

const isGgml = (weight: WeightData): weight is GgmlWeight => isGgmlForm(weight.form);

/** Calls the entry for the weight's form. */
export function byForm<R>(weight: WeightData, entries: ByForm<R>): R {
  return isGgml(weight) ? entries.ggml(weight) : byPlainForm(weight, entries);
}

/** The same for weights that `plainWeight` gave. */
export function byPlainForm<R>(weight: PlainWeight, entries: ByPlainForm<R>): R {
  const entry = entries[weight.form] as (weight: PlainWeight) => R; // the compiler does not see that both have one form
  return entry(weight);
}

/** The form in which an engine that knows no type of ggml keeps a matrix of this form. */
export function plainForm(form: WeightForm): PlainForm {
  return isGgmlForm(form) ? "f32" : form;
}

/** A matrix in that form: blocks of ggml become f32. */
export function plainWeight(weight: WeightData): PlainWeight {
  return isGgml(weight) ? { form: "f32", shape: weight.shape, data: asF32(weight) } : weight;
}

export function plainWeights(weights: Weights): PlainWeights {
  return Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, plainWeight(weight)]));
}

const plainBlocks: Readonly<Record<PlainForm, number>> = { f32: 1, int4: blockSize };

/** Values of a block, of which every row has a whole number. */
export function blockOf(form: WeightForm): number {
  return isGgmlForm(form) ? ggmlFormats[form].values : plainBlocks[form];
}

/** Number of values that a matrix holds, by its arrays. */
export function valuesIn(weight: WeightData): number {
  return byForm(weight, {
    f32: ({ data }) => data.length,
    int4: ({ s }) => s.length * blockSize,
    ggml: ({ form, data }) => (data.length / ggmlFormats[form].bytes) * ggmlFormats[form].values,
  });
}

/** The values row-major: the matrix's own array where it is f32. */
export function asF32(weight: WeightData): Float32Array {
  return byForm(weight, { f32: ({ data }) => data, int4: dequantizeInt4, ggml: dequantize });
}

/** The values row-major in an array of the caller's own. */
export function copyF32(weight: WeightData): Float32Array {
  return byForm(weight, { f32: ({ data }) => data.slice(), int4: dequantizeInt4, ggml: dequantize });
}

function dequantize({ form, data }: GgmlWeight): Float32Array {
  return dequantizeGgml(form, data);
}

function dequantizeInt4({ q, s, z }: WeightOf<"int4">): Float32Array {
  const out = new Float32Array(s.length * blockSize);
  for (let block = 0; block < s.length; block++) {
    const scale = s[block] as number;
    const zero = z[block] as number;
    for (let i = 0; i < 16; i++) {
      const pair = q[block * 16 + i] as number;
      out[block * blockSize + 2 * i] = ((pair & 15) - zero) * scale;
      out[block * blockSize + 2 * i + 1] = ((pair >> 4) - zero) * scale;
    }
  }
  return out;
}
