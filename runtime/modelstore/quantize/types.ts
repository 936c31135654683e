// The types that experts are rounded to, and what a matrix takes whose rows have no whole blocks of one.
import { AppError } from "../../../crds/common.ts";
import type { WeightDecl } from "../../kernels/segment.ts";
import { isBias, type UnitShape, valuesOf } from "../../weights/codecs/codec.ts";
import { blockOf, type ExpertForm, expertForms, storedBytes } from "../../weights/stored.ts";

export type RoundedType = Exclude<ExpertForm, "f32">;

export const roundedTypes = expertForms.filter((form): form is RoundedType => form !== "f32");

/** About 1.6, 2.6, 3.4, 4.5 and 6.6 bits. iq1_m would lose less than iq1_s, and its rounding takes 28 times as long. */
export const usualTypes: readonly RoundedType[] = ["iq1_s", "q2_K", "q3_K", "q4_K", "q6_K"];

/** Types of shorter blocks and at least as many bits, as llama.cpp takes them. */
const shorter: readonly { readonly bits: number; readonly type: RoundedType }[] = [
  { bits: 4.5, type: "q4_0" },
  { bits: 5.5, type: "q5_0" },
  { bits: 8.5, type: "q8_0" },
];

const bitsOf = (type: RoundedType): number => (8 * blockOf(type).bytes) / blockOf(type).values;

/** Biases stay f32. Throws AppError `UnsupportedShape` where no type fits. */
export function storedTypeFor(type: RoundedType, { name, shape }: WeightDecl): ExpertForm {
  if (isBias(shape)) return "f32";
  const columns = shape.at(-1) ?? 1;
  const fits = (each: RoundedType): boolean => columns % blockOf(each).values === 0;
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
  readonly types: readonly ExpertForm[];
  readonly bytes: number;
}

/** Distinct ones, in the order of their bytes. */
export function waysToStore(types: readonly RoundedType[], matrices: UnitShape): StoredTypes[] {
  const ways = new Map<string, StoredTypes>();
  for (const type of types) {
    const each = matrices.map((matrix) => storedTypeFor(type, matrix));
    const bytes = matrices.reduce((sum, { shape }, i) => sum + storedBytes(each[i] as ExpertForm, valuesOf(shape)), 0);
    ways.set(each.join(), { types: each, bytes });
  }
  return [...ways.values()].sort((a, b) => a.bytes - b.bytes);
}

export const valuesIn = (matrices: UnitShape): number => matrices.reduce((sum, { shape }) => sum + valuesOf(shape), 0);
