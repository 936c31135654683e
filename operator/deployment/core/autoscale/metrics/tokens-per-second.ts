// The metric tokensPerSecondPerRank: tokens of prompts and answers that a rank computes. It tells of load long before requests wait, for
// whoever knows what a rank can do. Pure.
import type { Metric } from "./metric.ts";

export const tokensPerSecond: Metric = { of: (signals) => signals.tokensPerSecond, unit: "" };
