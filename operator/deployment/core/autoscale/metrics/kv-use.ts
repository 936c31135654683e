// The metric kvUse: the share of the attention cache that open requests hold. Where it comes to its end requests wait. Pure.
import type { Metric } from "./metric.ts";

export const kvUse: Metric = { of: ({ kvUse }) => (kvUse === undefined ? undefined : kvUse * 100), unit: "%" };
