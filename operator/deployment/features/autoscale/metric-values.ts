// The metrics for scaling ranks. A new one is a row here, and a name in crds/autoscale.ts. Pure.
import type { AutoscaleMetricName } from "../../../../crds/autoscale.ts";
import type { RankSignals } from "../../core/world.ts";

export interface ServingRank {
  readonly rank: number;
  /** Undefined while the rank is silent. */
  readonly signals: RankSignals | undefined;
  /** Running and waiting requests; undefined while the rank is silent. */
  readonly activeRequests?: number | undefined;
}

interface Metric {
  /** In the unit of the target; undefined where the rank does not report it. */
  readonly of: (signals: RankSignals) => number | undefined;
  /** Printed after a value; empty where the name says it. */
  readonly unit: string;
}

export const metrics: Readonly<Record<AutoscaleMetricName, Metric>> = {
  // It grows as soon as requests exceed capacity, and is 0 with enough ranks, so that it removes surplus ranks.
  queuedTokensPerRank: { of: ({ queuedTokens }) => queuedTokens, unit: "" },
  // The used fraction of the KV cache; at 1 requests wait.
  kvUse: { of: ({ kvUse }) => (kvUse === undefined ? undefined : kvUse * 100), unit: "%" },
  // It shows load before requests wait, where the capacity of a rank is known.
  tokensPerSecondPerRank: { of: ({ tokensPerSecond }) => tokensPerSecond, unit: "" },
};
