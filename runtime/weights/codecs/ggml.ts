// Shared code of ggml-type codecs: blocks of each matrix, then f32 biases, in sections padded to 64 bytes.
import { AppError } from "../../../crds/common.ts";
import { type GgmlForm, ggmlBytes, ggmlFormats } from "../../kernels/ggml/index.ts";
import type { WeightDecl } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";
import { bytesOf } from "../floats.ts";
import { codedFormat, type ExpertForm, type StoredForm, storedBytes, storedWeight } from "../stored.ts";
import { firstUnusable } from "../weight-check.ts";
import { type ExpertMatrices, isBias, matrixOf, paddedSection, type UnitCodec, type UnitPart, type UnitShape, valuesOf } from "./codec.ts";

type CodecForm = GgmlForm & UnitCodec["name"];

export interface Rounding {
  /** Larger values would become infinite, or their scale would. */
  readonly magnitudeMax: number;
  readonly loss: number;
  /** Block values start at `from`; bytes from `at` on are zero before. */
  readonly quantize: (data: Float32Array, from: number, out: Uint8Array, at: number) => void;
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

interface BlockCodec extends Omit<UnitCodec, "forms" | "unitBytes" | "encode" | "decode"> {
  formOf(part: UnitPart): ExpertForm;
  convert(part: UnitPart, data: Float32Array): Uint8Array;
}

const computed = (form: ExpertForm): StoredForm => codedFormat(form)?.computed ?? (form as StoredForm);

/** Each matrix has its own form. */
export function blockCodec({ formOf, convert, ...codec }: BlockCodec): UnitCodec {
  const form = (part: UnitPart): ExpertForm => (isBias(part.shape) ? "f32" : formOf(part));
  const sectionBytes = (part: UnitPart): number => storedBytes(form(part), valuesOf(part.shape));
  const unitBytes = (shape: UnitShape): number => shape.reduce((sum, part) => sum + paddedSection(sectionBytes(part)), 0);
  const sectionOf = (matrices: ExpertMatrices, part: UnitPart): Uint8Array => {
    const given = matrices[part.name];
    const asStored = given !== undefined && !(given instanceof Float32Array) && given.form === form(part);
    if (asStored && given.data.length === sectionBytes(part)) return given.data;
    const data = matrixOf(matrices, part);
    return form(part) === "f32" ? bytesOf(data) : convert(part, data);
  };
  return {
    ...codec,
    forms: (shape) => Object.fromEntries(shape.map((part) => [part.name, computed(form(part))])),
    unitBytes,
    encode(matrices, shape) {
      const unit = new Uint8Array(unitBytes(shape));
      let at = 0;
      for (const part of shape) {
        unit.set(sectionOf(matrices, part), at);
        at += paddedSection(sectionBytes(part));
      }
      return unit;
    },
    decode(unit, shape): Weights {
      let at = 0;
      return Object.fromEntries(
        shape.map((part) => {
          const bytes = unit.subarray(at, at + sectionBytes(part));
          at += paddedSection(bytes.length);
          return [part.name, storedWeight(form(part), part.shape, bytes)];
        }),
      );
    },
  };
}

/** Beside halves the dense part has at least their precision. */
export function ggmlCodec(form: CodecForm, rounding: Rounding): UnitCodec {
  const denseBits = ggmlFormats[form].values === 1 ? 16 : 8;
  const { loss } = rounding;
  return blockCodec({ name: form, denseBits, loss, formOf: () => form, convert: (part, data) => writeBlocks(form, rounding, part, data) });
}

/** Most types store their scale as f16. */
export const halfMax = 65504;

/** Little-endian. */
export function writeBits(out: Uint8Array, at: number, bits: number): void {
  out[at] = bits & 255;
  out[at + 1] = bits >> 8;
}

/** Keeps the sign; returns the first of several. */
export function farthest(data: Float32Array, from: number, values: number): number {
  let most = 0;
  for (let i = from; i < from + values; i++) if (Math.abs(data[i] as number) > Math.abs(most)) most = data[i] as number;
  return most;
}
