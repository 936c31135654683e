// queuedTokensPerRank: unanswered prompt tokens. It grows as soon as requests exceed capacity, and is 0 with enough ranks, so that it
// removes surplus ranks. Pure.
import type { Metric } from "./metric.ts";

export const queuedTokens: Metric = { of: (signals) => signals.queuedTokens, unit: "" };
