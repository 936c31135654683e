// Status of a MoEDeployment, written by the operator only.
import { z } from "zod";
import { autoscaleStatus } from "./autoscale.ts";
import { conditionsSchema } from "./conditions.ts";
import { historySchema, operationSchema } from "./operation.ts";
import { rolloutStatusSchema } from "./rollout.ts";

const time = (description: string) => z.iso.datetime().optional().meta({ description });
const count = (description: string) => z.int32().min(0).optional().meta({ description });
const text = (description: string, max = 1024) => z.string().max(max).optional().meta({ description });

/** Sorted in writing order; the last four are optional. */
export const moeDeploymentConditions = [
  "Ready",
  "Available",
  "Progressing",
  "Degraded",
  "SpecAccepted",
  "FieldConflict",
  "ModelAvailable",
  "Reproducible",
  "TelemetryFresh",
  "PlacementBalanced",
  "RuntimeUpToDate",
  "ExpertsOversubscribed",
  "RolesServed",
  "ScalingActive",
  "GatewayRouted",
] as const;
export type MoEDeploymentConditionType = (typeof moeDeploymentConditions)[number];

/** Persisted so that a new leader remembers a rank that keeps failing. */
const podFailureSchema = z
  .object({
    rank: z.int32().min(0).meta({ description: "The rank." }),
    count: z.int32().min(1).meta({ description: "Pods of it that ended in a row." }),
    reason: z.string().max(64).meta({ description: "Why the last one ended." }),
    pod: z.string().max(253).meta({ description: "Name of the last one." }),
    retryTime: z.iso.datetime().meta({ description: "When the next one is made." }),
  })
  .meta({ description: "A rank whose pods ended lately." });
export type PodFailure = z.infer<typeof podFailureSchema>;

const lastRebalanceSchema = z
  .object({
    time: z.iso.datetime().meta({ description: "When it ended." }),
    result: z.string().max(64).meta({ description: "Committed, PartlyCommitted or Aborted." }),
    moves: z.int32().min(0).meta({ description: "Expert replicas that it newly placed." }),
    bytes: z.int().min(0).meta({ description: "Stored bytes received for them." }),
    durationMs: z.int32().min(0).meta({ description: "Milliseconds that it took." }),
    imbalanceBeforePercent: count("Worst layer before."),
    imbalanceAfterPercent: count("Worst layer after."),
  })
  .meta({ description: "The last plan that moved experts." });

export const moeDeploymentStatusSchema = z
  .object({
    observedGeneration: z.int().min(0).optional().meta({ description: "Generation this status speaks of." }),
    replicas: count("Worker pods that are not terminal."),
    readyReplicas: count("Worker pods that are Ready."),
    availableReplicas: count("Worker pods that are Ready and members of the world."),
    ready: text("Ranks that serve, of those wanted, such as 2/3.", 32),
    updatedReplicas: count("Worker pods made from the template in effect."),
    selector: text("Label selector of the worker pods, for kubectl scale and autoscalers."),
    expertParallel: z
      .object({
        desiredRanks: count("Ranks wanted."),
        activeRanks: count("Ranks that serve."),
        roles: text("Ranks that serve by role, such as prefill 1, decode 2, both 0.", 64),
        lostRanks: z
          .array(z.int32())
          .max(64)
          .optional()
          .meta({ description: "Ranks that should serve and do not (first 64).", "x-kubernetes-list-type": "atomic" }),
        leastRanks: count("Least ranks that hold all experts: replicas below it block the way down."),
        leastRanksReason: text("The arithmetic of leastRanks.", 512),
        podFailures: z
          .array(podFailureSchema)
          .max(1024)
          .optional()
          .meta({ description: "Ranks whose pods ended lately, and when each is made again.", "x-kubernetes-list-type": "atomic" }),
        pendingReplicas: count("A replicas value that waits for the settle time."),
        pendingSince: time("When that value was first seen."),
      })
      .optional()
      .meta({ description: "The expert-parallel world." }),
    operation: operationSchema.optional(),
    history: historySchema.optional(),
    rollout: rolloutStatusSchema.optional(),
    autoscale: autoscaleStatus,
    runtimeImage: z
      .object({
        image: z.string().max(512).meta({ description: "Image of the workers, and of gateways that name none of their own." }),
        available: text("Image that the operator comes with, where it is another: spec.runtimeImage.image rolls to it.", 512),
      })
      .optional()
      .meta({ description: "The build of the runtime in use; an upgrade of the operator alone does not change it." }),
    placement: z
      .object({
        placementRef: z
          .object({ name: z.string().max(253).meta({ description: "Its name, in the same namespace." }) })
          .optional()
          .meta({ description: "ExpertPlacement with the whole plan." }),
        epoch: z.int().min(0).optional().meta({ description: "Committed epoch." }),
        phase: text("Phase of the plan under way.", 64),
        imbalancePercent: count("Worst layer: max over mean load of the ranks."),
        boundPercent: count("Least imbalance the memory budget allows."),
        lastRebalance: lastRebalanceSchema.optional(),
      })
      .optional()
      .meta({ description: "Where experts are." }),
    telemetry: z
      .object({
        lastSampleTime: time("Newest load message."),
        ranksReporting: count("Ranks heard of within staleAfter."),
        ranksExpected: count("Ranks that serve."),
      })
      .optional()
      .meta({ description: "Load messages." }),
    model: z
      .object({
        digest: text("Digest of the model store.", 128),
        architecture: text("Model family.", 128),
        layers: count("Layers, those without experts included."),
        expertsPerLayer: count("Experts of a layer; where layers differ, of the one with most."),
        topK: count("Experts per token."),
        expertBytes: z.int().min(0).optional().meta({ description: "Resident bytes of all experts, one expert replica." }),
        denseBytes: z
          .int()
          .min(0)
          .optional()
          .meta({ description: "Resident bytes of the part every rank holds, and on a GPU of what its graphs work in." }),
        requestsPerRank: count("Requests that run at once on each rank, as far as their contexts fit; more of them wait."),
        requestsPerRankReason: text("The arithmetic of requestsPerRank.", 512),
      })
      .optional()
      .meta({ description: "What workers found in the store." }),
    download: z
      .object({
        uri: z.string().max(512).meta({ description: "What is downloaded." }),
        revision: text("The commit that it is of, where the source has such a thing.", 256),
        phase: z.string().max(32).meta({ description: "Waiting, Starting, Listing, Downloading, Importing or Done." }),
        progress: z.string().max(64).meta({ description: "Share of the bytes while it downloads, else what it does or waits for." }),
        doneBytes: z.int().min(0).optional().meta({ description: "Bytes that are in the claim." }),
        totalBytes: z.int().min(0).optional().meta({ description: "Bytes of all files." }),
        bytesPerSecond: z.int().min(0).optional().meta({ description: "Of the last seconds." }),
      })
      .optional()
      .meta({ description: "The download of the model; left out where it lies in a claim." }),
    gateway: z
      .object({
        replicas: count("Gateway pods wanted, by the spec or by whoever scales them."),
        readyReplicas: count("Gateway pods that are Ready."),
        autoscalerProblem: text("Why the autoscaler of gateway.autoscale sets no number, such as missing metrics."),
      })
      .optional()
      .meta({ description: "The gateways." }),
    address: z
      .object({ url: z.string().max(512).meta({ description: "Of the OpenAI API, inside the cluster." }) })
      .optional()
      .meta({ description: "Where clients reach the model." }),
    conditions: conditionsSchema.optional(),
  })
  .meta({ description: "What the operator observed." });
export type MoEDeploymentStatus = z.infer<typeof moeDeploymentStatusSchema>;
