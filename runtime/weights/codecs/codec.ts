// The interface of a codec of expert units: three matrices to bytes and back; and the shapes that all codecs share. Pure.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { WeightForm, Weights } from "../../kernels/weights.ts";

export interface ExpertShape {
  readonly hidden: number;
  readonly ffn: number;
}

/** w1 [ffn, hidden] (gate), w2 [hidden, ffn] (down), w3 [ffn, hidden] (up), row-major f32. */
export interface ExpertMatrices {
  readonly w1: Float32Array;
  readonly w2: Float32Array;
  readonly w3: Float32Array;
}

export interface UnitCodec {
  readonly name: CodecName;
  /** Form of the matrices that it decodes into: what backends size and compile. */
  readonly form: WeightForm;
  /** Gives back the very values that were imported. Beside experts that are not, the dense part may be kept coarser too. */
  readonly exact: boolean;
  /** Bytes of one unit, the same for every expert of a model. */
  unitBytes(shape: ExpertShape): number;
  encode(matrices: ExpertMatrices, shape: ExpertShape): Uint8Array;
  /** Views into `unit` where its alignment allows. */
  decode(unit: Uint8Array, shape: ExpertShape): Weights;
}

export function matrixShapes(
  shape: ExpertShape,
): readonly { readonly name: keyof ExpertMatrices; readonly rows: number; readonly columns: number }[] {
  return [
    { name: "w1", rows: shape.ffn, columns: shape.hidden },
    { name: "w2", rows: shape.hidden, columns: shape.ffn },
    { name: "w3", rows: shape.ffn, columns: shape.hidden },
  ];
}

export function checkUnitLength(codec: UnitCodec, unit: Uint8Array, shape: ExpertShape): void {
  const want = codec.unitBytes(shape);
  if (unit.length === want) return;
  throw new AppError(`an expert unit of codec ${codec.name} has ${unit.length} bytes, expected ${want}`, { code: "CorruptShard" });
}
