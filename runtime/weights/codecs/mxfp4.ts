// Codec mxfp4: blocks of 32 four-bit floats under a power of two, bit-identical to ggml's. It is coarse for checkpoints of other types.
import { e2m1Levels } from "../../kernels/ggml/levels.ts";
import { coarseLoss } from "./codec.ts";
import { farthest, ggmlCodec } from "./ggml.ts";

const half = 16;
const exponentBias = 127;
/** Exponent of the largest level, 6. */
const topExponent = 2;
/** The largest value for which a scale of 2^127 is possible. */
const magnitudeMax = 3.4028234663852886e38;
/** Midpoints of the doubled levels. */
const edges = Array.from({ length: 7 }, (_, i) => ((e2m1Levels[i] as number) + (e2m1Levels[i + 1] as number)) / 2);

function level(steps: number): number {
  let q = 0;
  while (q < edges.length && Math.abs(steps) > (edges[q] as number)) q++;
  return q > 0 && steps < 0 ? q + 8 : q;
}

export const mxfp4 = ggmlCodec("mxfp4", {
  magnitudeMax,
  loss: coarseLoss,
  quantize(data, from, out, at) {
    const most = Math.abs(farthest(data, from, 2 * half));
    const exponent = most > 0 ? Math.max(0, Math.floor(Math.log2(most)) - topExponent + exponentBias) : 0;
    const scale = 2 ** (exponent - exponentBias - 1);
    out[at] = exponent;
    for (let i = 0; i < half; i++)
      out[at + 1 + i] = level((data[from + i] as number) / scale) | (level((data[from + half + i] as number) / scale) << 4);
  },
});
