// Codec iq4_nl: blocks of 32 values of 16 uneven levels, closer together near zero, under one f16 scale. The scale is searched: from each
// of some candidates values go to their nearest levels, and the scale that suits those levels best is kept if its error is least. Pure.
import { halfToFloat } from "../../kernels/ggml/halves.ts";
import { nonLinearLevels } from "../../kernels/ggml/levels.ts";
import { f16Bits } from "../floats.ts";
import { farthest, ggmlCodec, halfMax, writeBits } from "./ggml.ts";

const values = 32;
const half = values / 2;
/** Candidates put the value farthest from zero at -127 plus so many steps, and as many less. */
const tries = 4;

/** Level nearest to n / 2, by n + 2 x 128; the edges between levels are halves, so this is exact for every value between. */
const nearest = Uint8Array.from({ length: 512 }, (_, n) => {
  const value = (n - 256) / 2 + 0.25;
  let best = 0;
  for (let q = 1; q < 16; q++)
    if (Math.abs((nonLinearLevels[q] as number) - value) < Math.abs((nonLinearLevels[best] as number) - value)) best = q;
  return best;
});

function level(steps: number): number {
  const n = Math.floor(2 * steps) + 256;
  return nearest[Math.max(0, Math.min(511, n))] as number;
}

/** The best scale for the levels that values have under `inverse`, and the squares that it takes off the error. */
function fitted(data: Float32Array, from: number, inverse: number): { readonly scale: number; readonly gain: number } {
  let [along, size] = [0, 0];
  for (let i = from; i < from + values; i++) {
    const value = data[i] as number;
    const q = nonLinearLevels[level(value * inverse)] as number;
    along += q * value;
    size += q * q;
  }
  return { scale: along / size, gain: (along * along) / size }; // no level is zero
}

function bestScale(data: Float32Array, from: number): number {
  const most = farthest(data, from, values);
  if (most === 0) return 0;
  let best = fitted(data, from, (nonLinearLevels[0] as number) / most);
  for (let step = -tries; step <= tries; step++) {
    const candidate = fitted(data, from, ((nonLinearLevels[0] as number) + step) / most);
    if (candidate.gain > best.gain) best = candidate;
  }
  return best.scale;
}

export const iq4_nl = ggmlCodec("iq4_nl", {
  magnitudeMax: halfMax,
  quantize(data, from, out, at) {
    const bits = f16Bits(bestScale(data, from));
    const scale = halfToFloat(bits);
    const inverse = scale === 0 ? 0 : 1 / scale;
    writeBits(out, at, bits);
    for (let i = 0; i < half; i++)
      out[at + 2 + i] = level((data[from + i] as number) * inverse) | (level((data[from + half + i] as number) * inverse) << 4);
  },
});
