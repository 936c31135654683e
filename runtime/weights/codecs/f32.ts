// Codec f32 of an expert unit: w1 | w2 | w3 as row-major little-endian f32, nothing between. Pure.
import type { Weights } from "../../kernels/weights.ts";
import { bytesOf, viewF32 } from "../floats.ts";
import type { ExpertMatrices, ExpertShape, UnitCodec } from "./codec.ts";
import { matrixShapes } from "./codec.ts";

function unitBytes(shape: ExpertShape): number {
  return 3 * 4 * shape.hidden * shape.ffn;
}

export const f32: UnitCodec = {
  name: "f32",
  form: "f32",
  exact: true,
  unitBytes,
  encode(matrices: ExpertMatrices, shape: ExpertShape): Uint8Array {
    const unit = new Uint8Array(unitBytes(shape));
    let at = 0;
    for (const { name } of matrixShapes(shape)) {
      const bytes = bytesOf(matrices[name]);
      unit.set(bytes, at);
      at += bytes.length;
    }
    return unit;
  },
  decode(unit: Uint8Array, shape: ExpertShape): Weights {
    const floats = viewF32(unit);
    const size = shape.hidden * shape.ffn;
    return Object.fromEntries(
      matrixShapes(shape).map(({ name, rows, columns }, i) => [
        name,
        { form: "f32" as const, shape: [rows, columns], data: floats.subarray(i * size, (i + 1) * size) },
      ]),
    );
  },
};
