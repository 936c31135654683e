// The codecs of ggml types, in what they share. A unit is its matrices as blocks of one type, in order, and its biases as f32, each
// section padded to 64 bytes. Matrices that are of the type already are kept bit for bit. Pure. How a type rounds is in its own file.
import { AppError } from "../../../crds/common.ts";
import { type GgmlForm, ggmlBytes, ggmlFormats } from "../../kernels/ggml/index.ts";
import type { WeightDecl } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";
import { viewF32 } from "../floats.ts";
import { firstUnusable } from "../weight-check.ts";
import { type ExpertMatrices, isBias, matrixOf, paddedSection, type UnitCodec, type UnitShape, valuesOf } from "./codec.ts";

/** The types that are codecs too. */
type CodecForm = GgmlForm & UnitCodec["name"];

/** A type's own rounding. */
interface Rounding {
  /** The largest value that the type holds: beyond it a scale, or the value, would become infinite. */
  readonly magnitudeMax: number;
  /** Writes the block of the values from `from` at byte `at`. The bytes are zero before. */
  readonly quantize: (data: Float32Array, from: number, out: Uint8Array, at: number) => void;
}

function sectionBytes(form: CodecForm, { shape }: WeightDecl): number {
  return isBias(shape) ? 4 * valuesOf(shape) : ggmlBytes(form, valuesOf(shape));
}

function writeBlocks(form: CodecForm, { magnitudeMax, quantize }: Rounding, matrix: WeightDecl, data: Float32Array): Uint8Array {
  const { values, bytes } = ggmlFormats[form];
  const [rows = 1, columns = 1] = matrix.shape;
  if (columns % values !== 0) {
    throw new AppError(`${form} needs rows of a multiple of ${values} values, matrix ${matrix.name} has ${columns}; use --codec f32`, {
      code: "UnsupportedShape",
    });
  }
  const unusable = firstUnusable(data, magnitudeMax);
  if (unusable >= 0) {
    const [row, column] = [Math.floor(unusable / columns), unusable % columns];
    throw new AppError(
      `${form} holds finite values of at most ${magnitudeMax}, matrix ${matrix.name} has ${data[unusable]} at [${row}, ${column}]; use --codec bf16 or f32`,
      { code: "UnusableWeight" },
    );
  }
  const out = new Uint8Array(ggmlBytes(form, rows * columns));
  for (let from = 0, at = 0; from < data.length; from += values, at += bytes) quantize(data, from, out, at);
  return out;
}

function sectionOf(form: CodecForm, rounding: Rounding, matrices: ExpertMatrices, matrix: WeightDecl): Uint8Array {
  const given = matrices[matrix.name];
  const asStored = given !== undefined && !(given instanceof Float32Array) && given.form === form && !isBias(matrix.shape);
  if (asStored && given.data.length === sectionBytes(form, matrix)) return given.data;
  const data = matrixOf(matrices, matrix);
  if (isBias(matrix.shape)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return writeBlocks(form, rounding, matrix, data);
}

/** The codec of a ggml type, by the type's rounding. */
export function ggmlCodec(form: CodecForm, rounding: Rounding): UnitCodec {
  const unitBytes = (shape: UnitShape): number => shape.reduce((sum, matrix) => sum + paddedSection(sectionBytes(form, matrix)), 0);
  return {
    name: form,
    form,
    exact: false,
    unitBytes,
    encode(matrices, shape) {
      const unit = new Uint8Array(unitBytes(shape));
      let at = 0;
      for (const matrix of shape) {
        unit.set(sectionOf(form, rounding, matrices, matrix), at);
        at += paddedSection(sectionBytes(form, matrix));
      }
      return unit;
    },
    decode(unit, shape): Weights {
      let at = 0;
      return Object.fromEntries(
        shape.map((matrix) => {
          const bytes = unit.subarray(at, at + sectionBytes(form, matrix));
          at += paddedSection(bytes.length);
          const bias = { form: "f32" as const, shape: matrix.shape };
          return [matrix.name, isBias(matrix.shape) ? { ...bias, data: viewF32(bytes) } : { form, shape: matrix.shape, data: bytes }];
        }),
      );
    },
  };
}

/** The largest f16, in which most types keep their scale. */
export const halfMax = 65504;

/** Writes 16 bits, little-endian. */
export function writeBits(out: Uint8Array, at: number, bits: number): void {
  out[at] = bits & 255;
  out[at + 1] = bits >> 8;
}

/** The value of a block that is farthest from zero, with its sign; the first one of several. */
export function farthest(data: Float32Array, from: number, values: number): number {
  let most = 0;
  for (let i = from; i < from + values; i++) if (Math.abs(data[i] as number) > Math.abs(most)) most = data[i] as number;
  return most;
}
