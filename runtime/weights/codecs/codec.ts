// The interface of a codec between an expert's matrices and the bytes of its unit.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { WeightDecl } from "../../kernels/segment.ts";
import { asF32, type GgmlWeight, type WeightForm, type WeightForms, type Weights } from "../../kernels/weights.ts";
import type { ExpertForm } from "../stored.ts";

export interface UnitPart extends WeightDecl {
  /** Set for codecs with `asGiven`. */
  readonly form?: ExpertForm;
}

/** An expert's matrices [rows, columns] and biases [columns], in order. */
export type UnitShape = readonly UnitPart[];

/** Row-major f32, or blocks that a codec of the same type stores bit for bit. */
export type ExpertMatrices = Readonly<Record<string, Float32Array | GgmlWeight>>;

export interface UnitCodec {
  readonly name: CodecName;
  /** Maximum of a backend's `denseBits` beside such experts. */
  readonly denseBits: 8 | 16 | 32;
  /** The codec's rank by rounding loss, 0 for none. From `coarseLoss` on, training requires an explicit choice. */
  readonly loss: number;
  /** The store lists each matrix's form. */
  readonly asGiven?: true;
  /** Returns decoded forms. Throws where a part has none. */
  forms(shape: UnitShape): WeightForms;
  unitBytes(shape: UnitShape): number;
  encode(matrices: ExpertMatrices, shape: UnitShape): Uint8Array;
  /** Views into `unit` where its alignment allows. */
  decode(unit: Uint8Array, shape: UnitShape): Weights;
}

/** The loss of 4-bit codecs. */
export const coarseLoss = 5;

/** w1 (gate), w2 (down), w3 (up). */
export function gatedFfnUnit(hidden: number, ffn: number): UnitShape {
  return [
    { name: "w1", shape: [ffn, hidden] },
    { name: "w2", shape: [hidden, ffn] },
    { name: "w3", shape: [ffn, hidden] },
  ];
}

export const valuesOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

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

/** Aligns views of the next section. */
export const paddedSection = (bytes: number): number => Math.ceil(bytes / sectionAlignment) * sectionAlignment;

export const isBias = (shape: readonly number[]): boolean => shape.length < 2;

/** Biases are f32. */
export const formsAlike =
  (form: WeightForm) =>
  (shape: UnitShape): WeightForms =>
    Object.fromEntries(shape.map((part) => [part.name, isBias(part.shape) ? "f32" : form]));
