// The registry of metrics for scaling ranks. A new one is a file and a line here, and a name in crds/autoscale.ts.
import type { AutoscaleMetricName } from "../../../../../crds/autoscale.ts";
import { kvUse } from "./kv-use.ts";
import type { Metric } from "./metric.ts";
import { queuedTokens } from "./queued-tokens.ts";
import { tokensPerSecond } from "./tokens-per-second.ts";

export const metrics: Readonly<Record<AutoscaleMetricName, Metric>> = {
  queuedTokensPerRank: queuedTokens,
  kvUse,
  tokensPerSecondPerRank: tokensPerSecond,
};
