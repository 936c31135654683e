// Codec bf16: the upper half of an f32, rounded to the nearest, ties to even. Keeps bf16 checkpoints exactly. Pure.
import { bf16Bits } from "../floats.ts";
import { ggmlCodec, writeBits } from "./ggml.ts";

/** The largest bf16. */
const magnitudeMax = 3.3895313892515355e38;

export const bf16 = ggmlCodec("bf16", {
  magnitudeMax,
  loss: 2,
  quantize: (data, from, out, at) => writeBits(out, at, bf16Bits(data[from] as number)),
});
