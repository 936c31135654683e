// Codec bf16, rounded to nearest, ties to even; lossless for bf16 checkpoints.
import { bf16Bits } from "../floats.ts";
import { ggmlCodec, writeBits } from "./ggml.ts";

/** The largest bf16. */
const magnitudeMax = 3.3895313892515355e38;

export const bf16 = ggmlCodec("bf16", {
  magnitudeMax,
  loss: 2,
  quantize: (data, from, out, at) => writeBits(out, at, bf16Bits(data[from] as number)),
});
