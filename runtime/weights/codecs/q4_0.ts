// Codec q4_0: blocks of 32 values of 16 even levels, -8 to 7, under one f16 scale. The scale is searched: from each of some candidates
// values go to their nearest levels, and the scale that suits those levels best is kept if its error is least. Pure.
import { halfAt } from "../../kernels/ggml/halves.ts";
import { f16Bits } from "../floats.ts";
import { farthest, ggmlCodec, halfMax, writeBits } from "./ggml.ts";

const values = 32;
const half = values / 2;
const zero = 8;
/** Where candidates put the value farthest from zero, in steps: at the lowest level, a little beyond it, or less far. Many more would take
 *  0.4% off the error of weights that are distributed as a bell. */
const candidates = Float64Array.of(-8.7, -8.2, -7.7, -7);

/** The values of the block in work. */
const block = new Float64Array(values);

/** Of levels that are chosen, the best scale is sum(level x value) / sum(level x level), and what it takes off the squared error grows with
 *  sum(level x value)^2 / sum(level x level). No candidate reaches below the lowest level by half a step, so that truncating is enough
 *  there. Two values at a time: sums wait less. */
function bestScale(most: number): number {
  let scale = 0;
  let gain = -1;
  for (let c = 0; c < candidates.length; c++) {
    const inverse = (candidates[c] as number) / most;
    let along = 0;
    let along2 = 0;
    let size = 0;
    for (let i = 0; i < values; i += 2) {
      const value = block[i] as number;
      const value2 = block[i + 1] as number;
      const n = (value * inverse + (zero + 0.5)) | 0;
      const n2 = (value2 * inverse + (zero + 0.5)) | 0;
      const level = Math.min(n, 15) - zero;
      const level2 = Math.min(n2, 15) - zero;
      along += level * value;
      along2 += level2 * value2;
      size = (size + Math.imul(level, level) + Math.imul(level2, level2)) | 0;
    }
    const sum = along + along2;
    if ((sum * sum) / size <= gain) continue;
    gain = (sum * sum) / size;
    scale = sum / size;
  }
  return scale;
}

/** Number of the level of value i. */
function levelOf(i: number, inverse: number): number {
  return Math.max(0, Math.min(15, Math.floor((block[i] as number) * inverse + (zero + 0.5))));
}

export const q4_0 = ggmlCodec("q4_0", {
  magnitudeMax: halfMax,
  quantize(data, from, out, at) {
    for (let i = 0; i < values; i++) block[i] = data[from + i] as number;
    const most = farthest(data, from, values);
    writeBits(out, at, f16Bits(most === 0 ? 0 : bestScale(most)));
    const scale = halfAt(out, at);
    const inverse = scale === 0 ? 0 : 1 / scale;
    for (let i = 0; i < half; i++) out[at + 2 + i] = levelOf(i, inverse) | (levelOf(half + i, inverse) << 4);
  },
});
