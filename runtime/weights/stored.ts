// Stored tensor forms, f32 or blocks of a ggml type (halves included): sizes, and conversion to f32.
import { dequantizeGgml, type GgmlForm, ggmlFormats, isGgmlForm } from "../kernels/ggml/index.ts";
import type { GgmlWeight, WeightOf } from "../kernels/weights.ts";
import { viewF32 } from "./floats.ts";

export type StoredForm = "f32" | GgmlForm;

const blocks: Readonly<Record<StoredForm, { readonly type: number; readonly values: number; readonly bytes: number }>> = {
  f32: { type: 0, values: 1, bytes: 4 },
  ...ggmlFormats,
};

export const storedForms = Object.keys(blocks) as readonly StoredForm[];

const byType = new Map(storedForms.map((form) => [blocks[form].type, form] as const));

/** Undefined for unsupported type numbers. */
export function storedFormOf(type: number): StoredForm | undefined {
  return byType.get(type);
}

export function blockOf(form: StoredForm): { readonly values: number; readonly bytes: number } {
  return blocks[form];
}

/** `values` is a multiple of a block's values. */
export function storedBytes(form: StoredForm, values: number): number {
  return (values / blocks[form].values) * blocks[form].bytes;
}

/** A view where alignment allows. */
export function storedWeight(form: StoredForm, shape: readonly number[], bytes: Uint8Array): WeightOf<"f32"> | GgmlWeight {
  return isGgmlForm(form) ? { form, shape, data: bytes } : { form, shape, data: viewF32(bytes) };
}

/** Whole blocks to f32. */
export function widenStored(form: StoredForm, bytes: Uint8Array): Float32Array {
  return isGgmlForm(form) ? dequantizeGgml(form, bytes) : viewF32(bytes);
}
