// Tensors as files keep them: f32, or blocks of a ggml type, halves among them. Sizes of any part, and what it means in f32. Pure.
// Not here: what a ggml type is (runtime/kernels/ggml).
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

/** The form of ggml's type number; undefined for a type that is not read. */
export function storedFormOf(type: number): StoredForm | undefined {
  return byType.get(type);
}

/** Values and bytes of a block, along a row. */
export function blockOf(form: StoredForm): { readonly values: number; readonly bytes: number } {
  return blocks[form];
}

/** Bytes of so many values in this form; they are a multiple of a block's. */
export function storedBytes(form: StoredForm, values: number): number {
  return (values / blocks[form].values) * blocks[form].bytes;
}

/** Stored bytes as a weight, a view where their alignment allows. */
export function storedWeight(form: StoredForm, shape: readonly number[], bytes: Uint8Array): WeightOf<"f32"> | GgmlWeight {
  return isGgmlForm(form) ? { form, shape, data: bytes } : { form, shape, data: viewF32(bytes) };
}

/** Whole blocks to f32. */
export function widenStored(form: StoredForm, bytes: Uint8Array): Float32Array {
  return isGgmlForm(form) ? dequantizeGgml(form, bytes) : viewF32(bytes);
}
