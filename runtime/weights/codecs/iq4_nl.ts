// Codec iq4_nl: blocks of 32 values of 16 levels, denser near zero, under one searched f16 scale.
import { nonLinearLevels } from "../../kernels/ggml/levels.ts";
import { ggmlCodec } from "./ggml.ts";
import { searchedRounding } from "./searched.ts";

/** Points around the lowest level, -127. Four times as many would reduce the error of Gaussian weights by 1%. */
const candidates = [-129, -120, -108];

export const iq4_nl = ggmlCodec("iq4_nl", searchedRounding({ levels: nonLinearLevels, candidates }));
