// Codec int4: blocks of 32 along the last axis, w = (q - z) * s, one f32 scale and one zero point (0..15) a block. Pure.
// Unit layout: of each matrix in order q, s, z; of each bias its f32 values; each section padded to 64 bytes so that views stay aligned.
import { AppError } from "../../../crds/common.ts";
import { blockSize, type WeightOf, type Weights } from "../../kernels/weights.ts";
import { viewF32 } from "../floats.ts";
import { firstUnusable, unusableWeight } from "../weight-check.ts";
import { type ExpertMatrices, formsAlike, isBias, matrixOf, paddedSection, type UnitCodec, type UnitShape, valuesOf } from "./codec.ts";

const levels = 15;
const f32Max = 3.4028234663852886e38;

/** Root mean square error of a block, at most, as a share of the plain scale (range / 15): half a level by rounding. */
export const blockErrorBound = 0.5001;
/** A second, tighter scale that clips the block's ends; taken when its error is smaller (about 10% less on real weights). */
const clippedShare = 0.9;

interface Int4Arrays {
  readonly q: Uint8Array;
  readonly s: Float32Array;
  readonly z: Uint8Array;
}

const level = (value: number, inverse: number, zero: number): number => {
  const q = Math.floor(value * inverse + zero + 0.5);
  return q < 0 ? 0 : Math.min(levels, q);
};

function squaredError(data: Float32Array, at: number, scale: number, zero: number): number {
  const inverse = 1 / scale;
  let error = 0;
  for (let i = at; i < at + blockSize; i++) {
    const value = data[i] as number;
    const off = (level(value, inverse, zero) - zero) * scale - value;
    error += off * off;
  }
  return error;
}

/** One block of 32 floats at `at`. The range is widened to hold zero, so the zero point is a level and zero stays exact. */
function quantizeBlock(data: Float32Array, at: number, block: number, out: Int4Arrays): void {
  let low = 0;
  let high = 0;
  for (let i = at; i < at + blockSize; i++) {
    const value = data[i] as number;
    if (value < low) low = value;
    else if (value > high) high = value;
  }
  const plain = Math.fround((high - low) / levels);
  if (!(plain > 0)) return; // all zero, or so small that f32 has no scale for it
  const zero = Math.min(levels, Math.floor(-low / plain + 0.5));
  const clipped = Math.fround(plain * clippedShare);
  const scale = clipped > 0 && squaredError(data, at, clipped, zero) < squaredError(data, at, plain, zero) ? clipped : plain;
  const inverse = 1 / scale;
  out.s[block] = scale;
  out.z[block] = zero;
  const base = block * (blockSize / 2);
  for (let i = 0; i < blockSize; i += 2) {
    out.q[base + (i >> 1)] = level(data[at + i] as number, inverse, zero) | (level(data[at + i + 1] as number, inverse, zero) << 4);
  }
}

/** Row-major [rows, columns] to int4; `into` gives the arrays to fill (zeroed), else new ones are made. Refuses what has no level: a
 *  NaN would become a number, and an infinity would make its block zero. */
export function quantizeInt4(data: Float32Array, rows: number, columns: number, into?: Int4Arrays): WeightOf<"int4"> {
  if (columns % blockSize !== 0) {
    throw new AppError(`int4 needs rows of a multiple of ${blockSize} values, this matrix has ${columns}; use --codec f32`, {
      code: "UnsupportedShape",
    });
  }
  const unusable = firstUnusable(data, f32Max);
  if (unusable >= 0) throw unusableWeight("int4", "a matrix", { shape: [rows, columns], data }, unusable);
  const blocks = (rows * columns) / blockSize;
  const out = into ?? { q: new Uint8Array(blocks * 16), s: new Float32Array(blocks), z: new Uint8Array(blocks) };
  for (let block = 0; block < blocks; block++) quantizeBlock(data, block * blockSize, block, out);
  return { form: "int4", shape: [rows, columns], ...out };
}

/** The place of a matrix in its unit. A bias has no blocks: its f32 values begin at `q`. */
interface Section {
  readonly name: string;
  readonly shape: readonly number[];
  readonly q: number;
  readonly s: number;
  readonly z: number;
  readonly blocks: number;
  readonly end: number;
}

function sections(unit: UnitShape): readonly Section[] {
  let start = 0;
  return unit.map(({ name, shape }) => {
    const blocks = isBias(shape) ? 0 : valuesOf(shape) / blockSize;
    const s = start + paddedSection(isBias(shape) ? valuesOf(shape) * 4 : blocks * 16);
    const z = s + paddedSection(blocks * 4);
    const section = { name, shape, q: start, s, z, blocks, end: z + paddedSection(blocks) };
    start = section.end;
    return section;
  });
}

function views(unit: Uint8Array, at: Section): Int4Arrays {
  return {
    q: unit.subarray(at.q, at.q + at.blocks * 16),
    s: viewF32(unit.subarray(at.s, at.s + at.blocks * 4)),
    z: unit.subarray(at.z, at.z + at.blocks),
  };
}

const biasOf = (unit: Uint8Array, { q, shape }: Section): Float32Array => viewF32(unit.subarray(q, q + valuesOf(shape) * 4));

const bytesIn = (layout: readonly Section[]): number => layout.at(-1)?.end ?? 0;

export const int4: UnitCodec = {
  name: "int4",
  denseBits: 8,
  forms: formsAlike("int4"),
  unitBytes: (shape) => bytesIn(sections(shape)),
  encode(matrices: ExpertMatrices, shape: UnitShape): Uint8Array {
    const layout = sections(shape);
    const unit = new Uint8Array(bytesIn(layout));
    for (const section of layout) {
      const data = matrixOf(matrices, section);
      const [rows = 1, columns = 1] = section.shape;
      if (isBias(section.shape)) biasOf(unit, section).set(data);
      else quantizeInt4(data, rows, columns, views(unit, section));
    }
    return unit;
  },
  decode(unit: Uint8Array, shape: UnitShape): Weights {
    return Object.fromEntries(
      sections(shape).map((section) => [
        section.name,
        isBias(section.shape)
          ? { form: "f32" as const, shape: section.shape, data: biasOf(unit, section) }
          : { form: "int4" as const, shape: section.shape, ...views(unit, section) },
      ]),
    );
  },
};
