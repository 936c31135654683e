// Codec iq4_nl: blocks of 32 values of 16 uneven levels, closer together near zero, under one f16 scale that is searched. Pure.
import { nonLinearLevels } from "../../kernels/ggml/levels.ts";
import { ggmlCodec } from "./ggml.ts";
import { searchedRounding } from "./searched.ts";

/** Beyond the lowest level, -127, and as far as the next one. Four times as many would take 1% off the error of weights that are
 *  distributed as a bell. */
const candidates = [-129, -120, -108];

export const iq4_nl = ggmlCodec("iq4_nl", searchedRounding({ levels: nonLinearLevels, candidates }));
