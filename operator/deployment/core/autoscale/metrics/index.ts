// The registry of metrics that ranks can be scaled by. One more is a file here, a line here, and its name in crds/autoscale.ts.
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
