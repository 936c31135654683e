// Stored tensor forms, f32 or blocks of a ggml type (halves included), and those of experts' units alone: sizes, and conversion.
import { dequantizeGgml, type GgmlForm, ggmlFormats, isGgmlForm } from "../kernels/ggml/index.ts";
import type { GgmlWeight, WeightOf } from "../kernels/weights.ts";
import { viewF32 } from "./floats.ts";
import { qmoe } from "./qmoe.ts";

export type StoredForm = "f32" | GgmlForm;

interface CodedFormat {
  readonly type: number;
  readonly values: number;
  readonly bytes: number;
  readonly computed: GgmlForm;
  /** Rounds rows of whole blocks. `importance`: of each column. */
  encode(data: Float32Array, importance?: Float32Array): Uint8Array;
  /** The same values in `computed`. Throws AppError `CorruptShard`. */
  expand(bytes: Uint8Array): Uint8Array;
}

/** The registry of forms in which no backend computes. */
const codedFormats = { qmoe } as const satisfies Readonly<Record<string, CodedFormat>>;

type CodedForm = keyof typeof codedFormats;
/** In a unit of codec `source`. */
export type ExpertForm = StoredForm | CodedForm;

const blocks: Readonly<Record<ExpertForm, { readonly type: number; readonly values: number; readonly bytes: number }>> = {
  f32: { type: 0, values: 1, bytes: 4 },
  ...ggmlFormats,
  ...codedFormats,
};

export const expertForms = Object.keys(blocks) as readonly ExpertForm[];
const isCoded = (form: string): form is CodedForm => Object.hasOwn(codedFormats, form);
export const storedForms = expertForms.filter((form): form is StoredForm => !isCoded(form));

/** Undefined for forms in which backends compute. */
export const codedFormat = (form: ExpertForm): CodedFormat | undefined => (isCoded(form) ? codedFormats[form] : undefined);

const byType = new Map(storedForms.map((form) => [blocks[form].type, form] as const));

/** Undefined for unsupported type numbers. */
export function storedFormOf(type: number): StoredForm | undefined {
  return byType.get(type);
}

export function blockOf(form: ExpertForm): { readonly values: number; readonly bytes: number } {
  return blocks[form];
}

/** `values` is a multiple of a block's values. */
export function storedBytes(form: ExpertForm, values: number): number {
  return (values / blocks[form].values) * blocks[form].bytes;
}

/** A view where alignment allows, unless it is coded. */
export function storedWeight(form: ExpertForm, shape: readonly number[], bytes: Uint8Array): WeightOf<"f32"> | GgmlWeight {
  if (isCoded(form)) return { form: codedFormats[form].computed, shape, data: codedFormats[form].expand(bytes) };
  return isGgmlForm(form) ? { form, shape, data: bytes } : { form, shape, data: viewF32(bytes) };
}

/** Whole blocks to f32. */
export function widenStored(form: StoredForm, bytes: Uint8Array): Float32Array {
  return isGgmlForm(form) ? dequantizeGgml(form, bytes) : viewF32(bytes);
}
