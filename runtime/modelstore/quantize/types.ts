// The ggml types that experts are rounded to, and what a matrix takes whose rows have no whole blocks of one.
import { AppError } from "../../../crds/common.ts";
import { type GgmlForm, ggmlFormats } from "../../kernels/ggml/index.ts";
import type { WeightDecl } from "../../kernels/segment.ts";
import { isBias, type UnitShape, valuesOf } from "../../weights/codecs/codec.ts";
import { type StoredForm, storedBytes } from "../../weights/stored.ts";

export const roundedTypes = Object.keys(ggmlFormats) as readonly GgmlForm[];

/** About 1, 2, 3, 4 and 6 bits; for all of them but the first rounding and products are fast. */
export const usualTypes: readonly GgmlForm[] = ["iq1_m", "q2_K", "q3_K", "q4_K", "q6_K"];

/** Types of shorter blocks and at least as many bits, as llama.cpp takes them. */
const shorter: readonly { readonly bits: number; readonly type: GgmlForm }[] = [
  { bits: 4.5, type: "q4_0" },
  { bits: 5.5, type: "q5_0" },
  { bits: 8.5, type: "q8_0" },
];

const bitsOf = (type: GgmlForm): number => (8 * ggmlFormats[type].bytes) / ggmlFormats[type].values;

/** Biases stay f32. Throws AppError `UnsupportedShape` where no type fits. */
export function storedTypeFor(type: GgmlForm, { name, shape }: WeightDecl): StoredForm {
  if (isBias(shape)) return "f32";
  const columns = shape.at(-1) ?? 1;
  const fits = (each: GgmlForm): boolean => columns % ggmlFormats[each].values === 0;
  if (fits(type)) return type;
  const found = shorter.find((each) => (each.bits >= bitsOf(type) - 1 / 8 || each.type === "q8_0") && fits(each.type));
  if (found !== undefined) return found.type;
  throw new AppError(
    `matrix ${name} has rows of ${columns} values, which are no whole blocks of ${type} or of 32; it cannot be quantized`,
    {
      code: "UnsupportedShape",
    },
  );
}

/** One way to store an expert. */
export interface StoredTypes {
  readonly types: readonly StoredForm[];
  readonly bytes: number;
}

/** Distinct ones, in the order of their bytes. */
export function waysToStore(types: readonly GgmlForm[], matrices: UnitShape): StoredTypes[] {
  const ways = new Map<string, StoredTypes>();
  for (const type of types) {
    const each = matrices.map((matrix) => storedTypeFor(type, matrix));
    const bytes = matrices.reduce((sum, { shape }, i) => sum + storedBytes(each[i] as StoredForm, valuesOf(shape)), 0);
    ways.set(each.join(), { types: each, bytes });
  }
  return [...ways.values()].sort((a, b) => a.bytes - b.bytes);
}

export const valuesIn = (matrices: UnitShape): number => matrices.reduce((sum, { shape }) => sum + valuesOf(shape), 0);
