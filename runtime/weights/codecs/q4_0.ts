// Codec q4_0: blocks of 32 values of 16 even levels, -8 to 7, under one f16 scale that is searched. Pure.
import { ggmlCodec } from "./ggml.ts";
import { searchedRounding } from "./searched.ts";

const levels = Array.from({ length: 16 }, (_, q) => q - 8);
/** At the lowest level, a little beyond it, or less far. Many more would take 0.4% off the error of weights that are distributed as a
 *  bell. */
const candidates = [-8.7, -8.2, -7.7, -7];

export const q4_0 = ggmlCodec("q4_0", searchedRounding({ levels, candidates }));
