// The registry of ggml types. To add one: its format, and one line here.
import { q4_0, q4_1, q5_0, q5_1, q8_0 } from "./blocks-of-32.ts";
import type { BlockFormat } from "./format.ts";
import { iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs } from "./grid-quants.ts";
import { bf16, f16 } from "./half-floats.ts";
import { q2_K, q3_K, q4_K, q5_K, q6_K } from "./k-quants.ts";
import { iq4_nl, iq4_xs, mxfp4, nvfp4 } from "./levels.ts";
import { q1_0, tq1_0, tq2_0 } from "./ternary.ts";

export const ggmlFormats = {
  f16,
  bf16,
  q8_0,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  iq4_nl,
  iq4_xs,
  mxfp4,
  q2_K,
  q3_K,
  q4_K,
  q5_K,
  q6_K,
  iq1_s,
  iq1_m,
  iq2_xxs,
  iq2_xs,
  iq2_s,
  iq3_xxs,
  iq3_s,
  tq1_0,
  tq2_0,
  nvfp4,
  q1_0,
} as const satisfies Readonly<Record<string, BlockFormat>>;

/** The names are ggml's own. */
export type GgmlForm = keyof typeof ggmlFormats;

export function isGgmlForm(form: string): form is GgmlForm {
  return Object.hasOwn(ggmlFormats, form);
}

export function ggmlBytes(form: GgmlForm, values: number): number {
  return (values / ggmlFormats[form].values) * ggmlFormats[form].bytes;
}

/** Whether scales alone show that all values are finite and at most a million; false says nothing. */
export function boundedByScales(form: GgmlForm, data: Uint8Array): boolean {
  const { bytes, scales } = ggmlFormats[form];
  for (const first of scales.at)
    for (let at = first; at < data.length; at += bytes)
      if ((((data[at] as number) | ((data[at + 1] as number) << 8)) & scales.mask) > scales.most) return false;
  return true;
}

export function dequantizeGgml(form: GgmlForm, data: Uint8Array): Float32Array {
  const { values, bytes, dequantize } = ggmlFormats[form];
  const blocks = Math.floor(data.length / bytes);
  const out = new Float32Array(blocks * values);
  for (let block = 0; block < blocks; block++) dequantize(data, block * bytes, out, block * values);
  return out;
}
