// Codec f32: row-major little-endian matrices and biases in order, without padding.
import type { Weights } from "../../kernels/weights.ts";
import { bytesOf, viewF32 } from "../floats.ts";
import { type ExpertMatrices, formsAlike, matrixOf, type UnitCodec, type UnitShape, valuesOf } from "./codec.ts";

function unitBytes(shape: UnitShape): number {
  return shape.reduce((bytes, matrix) => bytes + 4 * valuesOf(matrix.shape), 0);
}

export const f32: UnitCodec = {
  name: "f32",
  denseBits: 32,
  loss: 0,
  forms: formsAlike("f32"),
  unitBytes,
  encode(matrices: ExpertMatrices, shape: UnitShape): Uint8Array {
    const unit = new Uint8Array(unitBytes(shape));
    let at = 0;
    for (const matrix of shape) {
      const bytes = bytesOf(matrixOf(matrices, matrix));
      unit.set(bytes, at);
      at += bytes.length;
    }
    return unit;
  },
  decode(unit: Uint8Array, shape: UnitShape): Weights {
    const floats = viewF32(unit);
    let at = 0;
    return Object.fromEntries(
      shape.map((matrix) => {
        const data = floats.subarray(at, at + valuesOf(matrix.shape));
        at += data.length;
        return [matrix.name, { form: "f32" as const, shape: matrix.shape, data }];
      }),
    );
  },
};
