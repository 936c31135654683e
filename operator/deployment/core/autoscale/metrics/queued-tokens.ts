// The metric queuedTokensPerRank: prompts that nobody has answered yet. It grows at once when requests come faster than they are served,
// and is 0 with enough ranks, so that it brings ranks beyond need away. Pure.
import type { Metric } from "./metric.ts";

export const queuedTokens: Metric = { of: (signals) => signals.queuedTokens, unit: "" };
