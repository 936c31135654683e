// This file defines the forms in which weight matrices are handed about, and answers what shared code asks of any of them.
// Stores decode into these forms and backends compile from them; neither knows the other. Pure.
//
// A form says how a matrix lies in memory. Which codec stored it is nothing that a backend sees, and a new codec may well decode
// into a form that exists. Code that multiplies by a matrix has to tell forms apart; it does so with `byForm` or with a table
// `Record<WeightForm, ...>`, so that a new form does not compile before every place says what becomes of it.

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
    };

export type WeightForm = WeightData["form"];
export type WeightOf<F extends WeightForm> = Extract<WeightData, { readonly form: F }>;
export type Weights = Readonly<Record<string, WeightData>>;

type ByForm<R> = { readonly [F in WeightForm]: (weight: WeightOf<F>) => R };

/** Calls the entry for the weight's form. */
export function byForm<R>(weight: WeightData, entries: ByForm<R>): R {
  const entry = entries[weight.form] as (weight: WeightData) => R; // the compiler does not see that both have one form
  return entry(weight);
}

/** Number of values that a matrix holds, by its arrays. */
export function valuesIn(weight: WeightData): number {
  return byForm(weight, { f32: ({ data }) => data.length, int4: ({ s }) => s.length * blockSize });
}

/** The values row-major: the matrix's own array where it is f32. */
export function asF32(weight: WeightData): Float32Array {
  return byForm(weight, { f32: ({ data }) => data, int4: dequantizeInt4 });
}

/** The values row-major in an array of the caller's own. */
export function copyF32(weight: WeightData): Float32Array {
  return byForm(weight, { f32: ({ data }) => data.slice(), int4: dequantizeInt4 });
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
