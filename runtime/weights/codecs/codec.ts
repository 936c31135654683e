// The interface of a codec of expert units: named matrices and biases to bytes and back; and what that all codecs share. Pure.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { WeightDecl } from "../../kernels/segment.ts";
import { asF32, type GgmlWeight, type WeightForm, type WeightForms, type Weights } from "../../kernels/weights.ts";
import type { StoredForm } from "../stored.ts";

/** A matrix or bias of a unit. */
export interface UnitPart extends WeightDecl {
  /** The form that the unit keeps it in, for codecs that keep what a file has; others know theirs. */
  readonly form?: StoredForm;
}

/** The content of an expert's unit, in this order: matrices [rows, columns] and biases [columns]. */
export type UnitShape = readonly UnitPart[];

/** Row-major values by name: f32, or blocks as a file has them, which a codec of the same type keeps bit for bit. */
export type ExpertMatrices = Readonly<Record<string, Float32Array | GgmlWeight>>;

export interface UnitCodec {
  readonly name: CodecName;
  /** Bits at most that a value of the dense part's matrices is given beside such experts: `denseBits` of backends. */
  readonly denseBits: 8 | 16 | 32;
  /** Its place among codecs by what rounding loses: 0 nothing. From `coarseLoss` on it is too much to train from unasked. */
  readonly loss: number;
  /** It keeps each matrix in the form in which it comes, and the store names those forms. */
  readonly asGiven?: true;
  /** The form of each matrix and bias that it decodes into: what backends size and compile. Throws where a part has none. */
  forms(shape: UnitShape): WeightForms;
  /** Bytes of a unit of this shape. */
  unitBytes(shape: UnitShape): number;
  encode(matrices: ExpertMatrices, shape: UnitShape): Uint8Array;
  /** Views into `unit` where its alignment allows. */
  decode(unit: Uint8Array, shape: UnitShape): Weights;
}

/** The loss of codecs of four bits. */
export const coarseLoss = 5;

/** The unit of a gated FFN: w1 (gate), w2 (down), w3 (up). */
export function gatedFfnUnit(hidden: number, ffn: number): UnitShape {
  return [
    { name: "w1", shape: [ffn, hidden] },
    { name: "w2", shape: [hidden, ffn] },
    { name: "w3", shape: [ffn, hidden] },
  ];
}

export const valuesOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** The values of a matrix that is to be stored. */
export function matrixOf(matrices: ExpertMatrices, { name, shape }: WeightDecl): Float32Array {
  const given = matrices[name];
  const data = given === undefined || given instanceof Float32Array ? given : asF32(given);
  if (data?.length === valuesOf(shape)) return data;
  throw new AppError(`expert matrix ${name} has ${data?.length ?? "no"} values, [${shape.join(", ")}] are wanted`, {
    code: "UnsupportedShape",
  });
}

export function checkUnitLength(codec: UnitCodec, unit: Uint8Array, shape: UnitShape): void {
  const want = codec.unitBytes(shape);
  if (unit.length === want) return;
  throw new AppError(`an expert unit of codec ${codec.name} has ${unit.length} bytes, expected ${want}`, { code: "CorruptShard" });
}

const sectionAlignment = 64;

/** Bytes of a section of a unit, padded so that views of the next one are aligned. */
export const paddedSection = (bytes: number): number => Math.ceil(bytes / sectionAlignment) * sectionAlignment;

export const isBias = (shape: readonly number[]): boolean => shape.length < 2;

/** `forms` of a codec that has one form for all matrices; biases are f32. */
export const formsAlike =
  (form: WeightForm) =>
  (shape: UnitShape): WeightForms =>
    Object.fromEntries(shape.map((part) => [part.name, isBias(part.shape) ? "f32" : form]));
