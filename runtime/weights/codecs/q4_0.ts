// Codec q4_0: blocks of 32 values of 16 even levels around zero under one f16 scale; the value farthest from zero is the lowest level.
// Pure; bits as ggml's own.
import { f16Bits } from "../floats.ts";
import { farthest, ggmlCodec, halfMax, writeBits } from "./ggml.ts";

const half = 16;
const zero = 8;

export const q4_0 = ggmlCodec("q4_0", {
  magnitudeMax: halfMax * zero,
  quantize(data, from, out, at) {
    const scale = Math.fround(farthest(data, from, 2 * half) / -zero);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    const level = (i: number): number =>
      Math.min(15, Math.trunc(Math.fround(Math.fround((data[from + i] as number) * inverse) + zero + 0.5)));
    writeBits(out, at, f16Bits(scale));
    for (let i = 0; i < half; i++) out[at + 2 + i] = level(i) | (level(half + i) << 4);
  },
});
