// Codec q8_0: blocks of 32 signed bytes under one f16 scale, bit-identical to ggml's.
import { f16Bits } from "../floats.ts";
import { farthest, ggmlCodec, halfMax, writeBits } from "./ggml.ts";

const levels = 127;

export const q8_0 = ggmlCodec("q8_0", {
  magnitudeMax: halfMax * levels,
  loss: 4,
  quantize(data, from, out, at) {
    const scale = Math.fround(Math.abs(farthest(data, from, 32)) / levels);
    const inverse = scale > 0 ? Math.fround(1 / scale) : 0;
    writeBits(out, at, f16Bits(scale));
    for (let i = 0; i < 32; i++) {
      const steps = Math.fround((data[from + i] as number) * inverse);
      out[at + 2 + i] = steps < 0 ? -Math.floor(0.5 - steps) : Math.floor(steps + 0.5); // halves round away from zero
    }
  },
});
