// The registry of unit codecs. Types of ggml are rows that say how a block is rounded.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { e2m1Levels, nonLinearLevels } from "../../kernels/ggml/levels.ts";
import type { Weights } from "../../kernels/weights.ts";
import { bf16Bits, bytesOf, f16Bits, viewF32 } from "../floats.ts";
import { codedFormat } from "../stored.ts";
import { coarseLoss, type ExpertMatrices, formsAlike, matrixOf, type UnitCodec, type UnitPart, type UnitShape, valuesOf } from "./codec.ts";
import { blockCodec, farthest, ggmlCodec, halfMax, type Rounding, writeBits } from "./ggml.ts";
import { searchedRounding } from "./searched.ts";

function plainBytes(shape: UnitShape): number {
  return shape.reduce((bytes, matrix) => bytes + 4 * valuesOf(matrix.shape), 0);
}

/** Row-major little-endian matrices and biases in order, without padding. */
const f32: UnitCodec = {
  name: "f32",
  denseBits: 32,
  loss: 0,
  forms: formsAlike("f32"),
  unitBytes: plainBytes,
  encode(matrices: ExpertMatrices, shape: UnitShape): Uint8Array {
    const unit = new Uint8Array(plainBytes(shape));
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

/** Rounded to nearest, ties to even; lossless for bf16 checkpoints. */
const bf16: Rounding = {
  magnitudeMax: 3.3895313892515355e38, // the largest bf16
  loss: 2,
  quantize: (data, from, out, at) => writeBits(out, at, bf16Bits(data[from] as number)),
};

/** IEEE halves, rounded to nearest, ties to even. */
const f16: Rounding = {
  magnitudeMax: halfMax,
  loss: 3,
  quantize: (data, from, out, at) => writeBits(out, at, f16Bits(data[from] as number)),
};

const byteLevels = 127;
/** Blocks of 32 signed bytes under one f16 scale, bit-identical to ggml's. */
const q8_0: Rounding = {
  magnitudeMax: halfMax * byteLevels,
  loss: 4,
  quantize(data, from, out, at) {
    const scale = Math.fround(Math.abs(farthest(data, from, 32)) / byteLevels);
    const inverse = scale > 0 ? Math.fround(1 / scale) : 0;
    writeBits(out, at, f16Bits(scale));
    for (let i = 0; i < 32; i++) {
      const steps = Math.fround((data[from + i] as number) * inverse);
      out[at + 2 + i] = steps < 0 ? -Math.floor(0.5 - steps) : Math.floor(steps + 0.5); // halves round away from zero
    }
  },
};

/** Blocks of 32 values of 16 even levels, -8 to 7, under one searched f16 scale. */
const q4_0 = searchedRounding({
  levels: Array.from({ length: 16 }, (_, q) => q - 8),
  candidates: [-8.7, -8.2, -7.7, -7], // around the lowest level; many more would reduce the error of Gaussian weights by 0.4%
});

/** Blocks of 32 values of 16 levels, denser near zero, under one searched f16 scale. */
const iq4_nl = searchedRounding({
  levels: nonLinearLevels,
  candidates: [-129, -120, -108], // around the lowest level, -127; four times as many would reduce the error of Gaussian weights by 1%
});

const half = 16;
const exponentBias = 127;
/** Exponent of the largest level, 6. */
const topExponent = 2;
/** The largest value for which a scale of 2^127 is possible. */
const mxfp4Max = 3.4028234663852886e38;
/** Midpoints of the doubled levels. */
const edges = Array.from({ length: 7 }, (_, i) => ((e2m1Levels[i] as number) + (e2m1Levels[i + 1] as number)) / 2);

function e2m1(steps: number): number {
  let q = 0;
  while (q < edges.length && Math.abs(steps) > (edges[q] as number)) q++;
  return q > 0 && steps < 0 ? q + 8 : q;
}

/** Blocks of 32 four-bit floats under a power of two, bit-identical to ggml's. It is coarse for checkpoints of other types. */
const mxfp4: Rounding = {
  magnitudeMax: mxfp4Max,
  loss: coarseLoss,
  quantize(data, from, out, at) {
    const most = Math.abs(farthest(data, from, 2 * half));
    const exponent = most > 0 ? Math.max(0, Math.floor(Math.log2(most)) - topExponent + exponentBias) : 0;
    const scale = 2 ** (exponent - exponentBias - 1);
    out[at] = exponent;
    for (let i = 0; i < half; i++)
      out[at + 1 + i] = e2m1((data[from + i] as number) / scale) | (e2m1((data[from + half + i] as number) / scale) << 4);
  },
};

const refused = (what: string): AppError =>
  new AppError(`codec source keeps matrices as a checkpoint has them, and ${what}; use another --codec`, { code: "UnsupportedShape" });

/** Each matrix in its checkpoint's ggml type (../DECISIONS.md 3). */
const source = blockCodec({
  name: "source",
  denseBits: 16,
  loss: 1,
  asGiven: true,
  formOf({ name, form }: UnitPart) {
    if (form === undefined) throw refused(`matrix ${name} comes in no form`);
    return form;
  },
  convert({ name, form }, data) {
    const coded = form && codedFormat(form);
    if (coded) return coded.encode(data);
    throw refused(`matrix ${name} is not ${form} in every expert of its layer`);
  },
});

const codecs: Readonly<Record<CodecName, UnitCodec>> = {
  f32,
  bf16: ggmlCodec("bf16", bf16),
  f16: ggmlCodec("f16", f16),
  q8_0: ggmlCodec("q8_0", q8_0),
  q4_0: ggmlCodec("q4_0", q4_0),
  iq4_nl: ggmlCodec("iq4_nl", iq4_nl),
  mxfp4: ggmlCodec("mxfp4", mxfp4),
  source,
};

export function codecFor(name: CodecName): UnitCodec {
  return codecs[name];
}
