// Codec f16: IEEE halves, rounded to nearest, ties to even.
import { f16Bits } from "../floats.ts";
import { ggmlCodec, halfMax, writeBits } from "./ggml.ts";

export const f16 = ggmlCodec("f16", {
  magnitudeMax: halfMax,
  loss: 3,
  quantize: (data, from, out, at) => writeBits(out, at, f16Bits(data[from] as number)),
});
