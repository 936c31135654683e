// tokensPerSecondPerRank: tokens of prompts and answers. It shows load before requests wait, where the capacity of a rank is known. Pure.
import type { Metric } from "./metric.ts";

export const tokensPerSecond: Metric = { of: (signals) => signals.tokensPerSecond, unit: "" };
