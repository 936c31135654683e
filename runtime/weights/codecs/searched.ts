// Rounds blocks of 32 values to 16 levels under one searched f16 scale; imports spend most time here.
import { halfAt } from "../../kernels/ggml/half-floats.ts";
import { f16Bits } from "../floats.ts";
import { coarseLoss } from "./codec.ts";
import { halfMax, type Rounding, writeBits } from "./ggml.ts";

const values = 32;
const half = values / 2;
/** The tables reach this many times the farthest level. */
const reachTimes = 2;

interface Searched {
  /** Ascending whole numbers. */
  readonly levels: ArrayLike<number>;
  /** Levels at which to put the value farthest from zero. */
  readonly candidates: readonly number[];
}

export function searchedRounding({ levels, candidates }: Searched): Rounding {
  /** Half steps. */
  const reach = 2 * reachTimes * Math.max(...Array.from(levels, Math.abs));
  /** Maps n + reach to the level nearest to n / 2; exact, since edges between levels are halves. */
  const nearest = Uint8Array.from({ length: 2 * reach }, (_, n) => {
    const value = (n - reach) / 2 + 0.25;
    let best = 0;
    for (let q = 1; q < levels.length; q++)
      if (Math.abs((levels[q] as number) - value) < Math.abs((levels[best] as number) - value)) best = q;
    return best;
  });
  const nearestLevel = Int32Array.from(nearest, (q) => levels[q] as number);
  const block = new Float64Array(values);

  /** Returns the value farthest from zero. */
  const take = (data: Float32Array, from: number): number => {
    let high = 0;
    let low = 0;
    for (let i = 0; i < values; i++) {
      const value = data[from + i] as number;
      block[i] = value;
      if (value > high) high = value;
      else if (value < low) low = value;
    }
    return high >= -low ? high : low;
  };

  /**
   * The best scale is sum(level x value) / sum(level x level), which reduces the squared error by sum(level x value)^2 / sum(level x
   * level). Two values at a time shorten dependency chains.
   */
  const bestScale = (most: number): number => {
    let scale = 0;
    let gain = -1;
    for (const candidate of candidates) {
      const halfSteps = (2 * candidate) / most;
      let along = 0;
      let along2 = 0;
      let size = 0;
      for (let i = 0; i < values; i += 2) {
        const value = block[i] as number;
        const value2 = block[i + 1] as number;
        const level = nearestLevel[(value * halfSteps + reach) | 0] as number; // truncation is floor for a positive number
        const level2 = nearestLevel[(value2 * halfSteps + reach) | 0] as number;
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
  };

  /** A scale of nearly zero leaves values beyond all levels. */
  const levelOf = (i: number, halfSteps: number): number => {
    const n = ((block[i] as number) * halfSteps + reach) | 0;
    return nearest[Math.max(0, Math.min(2 * reach - 1, n))] as number;
  };

  return {
    magnitudeMax: halfMax,
    loss: coarseLoss,
    quantize(data, from, out, at) {
      const most = take(data, from);
      writeBits(out, at, f16Bits(most === 0 ? 0 : bestScale(most)));
      const scale = halfAt(out, at);
      const halfSteps = scale === 0 ? 0 : 2 / scale;
      for (let i = 0; i < half; i++) out[at + 2 + i] = levelOf(i, halfSteps) | (levelOf(half + i, halfSteps) << 4);
    },
  };
}
