// kvUse: the used fraction of the KV cache; at 1 requests wait. Pure.
import type { Metric } from "./metric.ts";

export const kvUse: Metric = { of: ({ kvUse }) => (kvUse === undefined ? undefined : kvUse * 100), unit: "%" };
