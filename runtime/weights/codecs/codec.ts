// The interface of a codec of expert units: named matrices and biases to bytes and back; and what that all codecs share. Pure.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { WeightDecl } from "../../kernels/segment.ts";
import { asF32, type GgmlWeight, type WeightForm, type Weights } from "../../kernels/weights.ts";

/** The content of an expert's unit, in this order: matrices [rows, columns] and biases [columns]. */
export type UnitShape = readonly WeightDecl[];

/** Row-major values by name: f32, or blocks as a file has them, which a codec of the same type keeps bit for bit. */
export type ExpertMatrices = Readonly<Record<string, Float32Array | GgmlWeight>>;

export interface UnitCodec {
  readonly name: CodecName;
  /** Form of the matrices that it decodes into: what backends size and compile. */
  readonly form: WeightForm;
  /** Gives back the very values that were imported. Beside experts that are not, the dense part may be kept coarser too. */
  readonly exact: boolean;
  /** Bytes of a unit of this shape. */
  unitBytes(shape: UnitShape): number;
  encode(matrices: ExpertMatrices, shape: UnitShape): Uint8Array;
  /** Views into `unit` where its alignment allows. */
  decode(unit: Uint8Array, shape: UnitShape): Weights;
}

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
