// `spec.experts.prefetch`, and the predictor of each mode.
import { z } from "zod";
import type { PredictorName } from "./names.ts";

/** By mode; the registry is runtime/experts/prefetch/index.ts. */
export const prefetchPredictors = {
  Off: undefined,
  NextGate: "next-gate",
  Residual: "residual",
  Path: "path",
  Transitions: "transitions",
  Affinity: "affinity",
  Last: "last",
  Frequency: "frequency",
  Ring: "ring",
  Batch: "batch",
} as const satisfies Readonly<Record<string, PredictorName | undefined>>;
type PrefetchMode = keyof typeof prefetchPredictors;
export const prefetchModes = Object.keys(prefetchPredictors) as readonly PrefetchMode[];
export const defaultPrefetch: PrefetchMode = "Off";

export const prefetch = z.enum(prefetchModes).default(defaultPrefetch).meta({
  description:
    "Which experts are loaded before a token chooses them, while the disk is idle and oversubscription is Allow. NextGate asks the router of the next layer with the rows of this one, Residual with rows moved on by their last change. Path and Transitions go by the experts of the layers before, Affinity and Last by those of the last token, Frequency by all so far. Ring takes all of the next layer, and Batch is for models whose layers share one router. Texts stay the same.",
});
