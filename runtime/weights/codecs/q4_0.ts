// Codec q4_0: blocks of 32 values of 16 even levels, -8 to 7, under one searched f16 scale.
import { ggmlCodec } from "./ggml.ts";
import { searchedRounding } from "./searched.ts";

const levels = Array.from({ length: 16 }, (_, q) => q - 8);
/** Points around the lowest level. Many more would reduce the error of Gaussian weights by 0.4%. */
const candidates = [-8.7, -8.2, -7.7, -7];

export const q4_0 = ggmlCodec("q4_0", searchedRounding({ levels, candidates }));
