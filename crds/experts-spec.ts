// `spec.experts`, and the predictor of each mode of prefetching.
import { z } from "zod";
import { defaultOversubscription, oversubscriptionModes, type PredictorName } from "./names.ts";
import { quantity } from "./quantity.ts";

/** The predictor of each mode; the registry is runtime/experts/prefetch/index.ts. */
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

/** This bound also limits the cost of the CEL rules. */
const expertReplicasMax = 16;

const prefetch = z.enum(prefetchModes).default(defaultPrefetch).meta({
  description:
    "Which experts are loaded before a token chooses them, while the disk is idle and oversubscription is Allow. NextGate asks the router of the next layer with the rows of this one, Residual with rows moved on by their last change. Path and Transitions go by the experts of the layers before, Affinity and Last by those of the last token, Frequency by all so far. Ring takes all of the next layer, and Batch is for models whose layers share one router. Texts stay the same.",
});

export const experts = z
  .object({
    memoryPerRank: quantity(
      "Resident bytes of experts each rank may hold: primaries, expert replicas and one staging slot. On a GPU this is memory of the device, and must be given: the backends cuda and vulkan require the field, and with Auto a worker that finds a GPU ends without it. When not given: 85% of the memory limit of the container runtime, or of the whole node when there is no limit, less the dense part and the KV pool.",
    ).optional(),
    oversubscription: z.enum(oversubscriptionModes).default(defaultOversubscription).meta({
      description:
        "Allow: ranks may serve more experts than their memory holds; the most used ones stay in memory, and others are loaded from the node's disk when a token chooses them. Texts stay the same, and tokens wait for those loads. Never: experts that do not fit are refused.",
    }),
    minGatePercent: z.int32().min(0).max(100).default(0).meta({
      description:
        "A token leaves out experts whose gate is below this percent of its largest one, except tokens to which others attend much. Texts differ from those of 0, which leaves out none; they do not depend on ranks or on other requests.",
    }),
    prefetch,
    minExpertReplicas: z.int32().min(1).max(expertReplicasMax).default(1).meta({
      description:
        "Expert replicas that every expert has, on different nodes where there are as many, as far as memory reaches. With 2, the loss of any one node leaves every expert a live expert replica.",
    }),
  })
  .prefault({})
  .meta({ description: "How much memory experts may take, and how many expert replicas of each there are at least." });
