// ExpertPlacement: a MoEDeployment's durable plan, written before it is pushed, and the ranks' state of it. It stays below 1 MiB at 61 x
// 256 on 144 ranks.
import { z } from "zod";
import { AppError } from "./common.ts";
import { planBounds } from "./plan.ts";
import { phases } from "./telemetry.ts";

const rank = z
  .int32()
  .min(0)
  .max(planBounds.ranks - 1)
  .meta({ description: "Number of the rank." });
const epoch = z.int().min(0);
const permille = (description: string) => z.int32().min(0).max(1000).meta({ description });
export const decisionNumbersMax = 32;
const percent = (description: string) => z.int32().min(0).optional().meta({ description });

const layer = z.object({
  layer: z
    .int32()
    .min(0)
    .max(planBounds.layers - 1)
    .meta({ description: "Index of the MoE layer." }),
  epoch: epoch.meta({ description: "Epoch of the layer's last change." }),
  hosts: z.string().max(planBounds.layerText).meta({ description: "Ranks per expert: experts by comma, ranks by dot, primary first." }),
  weights: z.string().max(planBounds.layerText).meta({ description: "Per mille of the tokens each host takes, aligned with hosts." }),
});

export const expertPlacementSpecSchema = z
  .object({
    deploymentUID: z.string().max(64).meta({ description: "uid of the MoEDeployment; another one means another world." }),
    epoch: epoch.meta({ description: "Grows with every plan; allocated by the successful update of this object." }),
    parentEpoch: epoch.meta({ description: "The plan this one changes; 0 for the first." }),
    planHash: z.string().max(128).meta({ description: "Hash of the whole plan; workers refuse an equal epoch with another hash." }),
    modelDigest: z.string().max(128).meta({ description: "Digest of the model store." }),
    ranks: z
      .array(
        z.object({
          rank,
          podName: z.string().max(253).meta({ description: "Its pod." }),
          podUID: z.string().max(64).meta({ description: "uid of that pod." }),
        }),
      )
      .max(planBounds.ranks)
      .meta({ description: "Members the plan was made for.", "x-kubernetes-list-type": "atomic" }),
    layers: z.array(layer).max(planBounds.layers).meta({ description: "Placement per layer.", "x-kubernetes-list-type": "atomic" }),
    reason: z.string().max(1024).optional().meta({ description: "Why the plan was made." }),
  })
  .meta({ description: "The plan." });
export type ExpertPlacementSpec = z.infer<typeof expertPlacementSpecSchema>;

const placementPhases = ["Preparing", "Committing", "Releasing", "Committed", "Aborted", "Recommended"] as const;

const outcome = (description: string) =>
  z
    .object({
      imbalancePercent: percent("Worst layer."),
      boundPercent: percent("Least imbalance the memory allows."),
      moves: z.int32().min(0).optional().meta({ description: "Expert replicas newly placed." }),
      bytes: z.int().min(0).optional().meta({ description: "Bytes received." }),
      durationMs: z.int32().min(0).optional().meta({ description: "Milliseconds from plan to commit." }),
    })
    .optional()
    .meta({ description });

export const expertPlacementStatusSchema = z
  .object({
    phase: z.enum(placementPhases).optional().meta({ description: "Where the plan stands." }),
    committedEpoch: epoch.optional().meta({ description: "Highest epoch of which every layer is committed." }),
    layersCommitted: z.int32().min(0).optional().meta({ description: "Layers of the plan that are committed." }),
    deadline: z.iso.datetime().optional().meta({ description: "When an unfinished Prepare is rolled back." }),
    ranks: z
      .array(
        z.object({
          rank,
          bootId: z.string().max(64).optional().meta({ description: "Its process; a restarted one has another." }),
          epoch: epoch.optional().meta({ description: "Epoch the rank runs." }),
          hostedBytes: z.int().min(0).optional().meta({ description: "Resident bytes of its experts, in memory." }),
          servedBytes: z
            .int()
            .min(0)
            .optional()
            .meta({ description: "Resident bytes of the experts that it serves, where ranks serve more than they hold." }),
          predictedLoadBytes: z
            .int()
            .min(0)
            .optional()
            .meta({ description: "Stored bytes of experts that it is expected to load for a token, since it does not hold them." }),
          measuredLoadBytes: z.int().min(0).optional().meta({ description: "What it has loaded for a token of late." }),
          budgetBytes: z.int().min(0).optional().meta({ description: "Resident bytes it may hold." }),
          denseBytes: z
            .int()
            .min(0)
            .optional()
            .meta({ description: "Resident bytes of the part every rank holds, and on a GPU of what its graphs work in." }),
          kvBytes: z.int().min(0).optional().meta({ description: "Bytes of its attention cache." }),
          loadPercent: percent("Its served load over the mean, in the worst layer."),
          speedPercent: percent("Its speed over the median rank's, as plans count with it."),
          state: z.string().max(32).optional().meta({ description: "joining, active, draining or lost." }),
          role: z.string().max(32).optional().meta({ description: "prefill, decode or both, where the spec has roles." }),
        }),
      )
      .max(planBounds.ranks)
      .optional()
      .meta({ description: "What each rank reports.", "x-kubernetes-list-type": "atomic" }),
    predicted: outcome("What the planner expected of the plan."),
    measured: outcome("What came of it."),
    phases: z
      .array(
        z.object({
          phase: z.enum(phases).meta({ description: "prefill or decode." }),
          selections: z.int().min(0).meta({ description: "Expert selections of the last window." }),
          imbalancePercent: percent("Worst layer, if they are routed by the plan's weights."),
        }),
      )
      .max(phases.length)
      .optional()
      .meta({ description: "The last window's load by phase; a plan is made for the sum.", "x-kubernetes-list-type": "atomic" }),
    recommended: z.array(z.string().max(64)).max(256).optional().meta({
      description: "Mode Recommend: moves of the plan that Auto would carry out, as layer/expert -> rank.",
      "x-kubernetes-list-type": "atomic",
    }),
    reason: z.string().max(1024).optional().meta({ description: "Why the plan was made or rolled back." }),
    decision: z
      .object({
        reason: z.string().max(64).meta({ description: "In one word." }),
        message: z.string().max(1024).meta({ description: "With its numbers." }),
        numbers: z
          .record(z.string().max(64), z.number())
          .refine((numbers) => Object.keys(numbers).length <= decisionNumbersMax, { error: `more than ${decisionNumbersMax} numbers` })
          .optional()
          .meta({ description: "The same numbers by name; names end in their unit.", maxProperties: decisionNumbersMax }),
      })
      .optional()
      .meta({ description: "What the planner last decided, to act or to hold, and why." }),
    forecast: z
      .object({
        newestWeightPercent: percent("Weight of the newest window in the average that forecasts best."),
        errorPermille: permille("Part of the load by which this average missed recent windows."),
        noisePermille: permille("Part by which two windows of the same load differ by chance."),
        changePermille: permille("Part by which the last window differed from the one before."),
        changed: z.boolean().meta({ description: "The load has changed at once, and no plan was judged since." }),
        windows: z.int32().min(0).meta({ description: "Windows taken in." }),
      })
      .optional()
      .meta({ description: "How the load is forecast." }),
  })
  .meta({ description: "How far the plan is carried out." });
export type ExpertPlacementStatus = z.infer<typeof expertPlacementStatusSchema>;

const expertPlacementSchema = z.object({
  metadata: z.object({
    name: z.string().min(1),
    namespace: z.string().min(1),
    uid: z.string().default(""),
    resourceVersion: z.string().default(""),
    generation: z.number().int().default(1),
  }),
  spec: expertPlacementSpecSchema,
  status: expertPlacementStatusSchema.default({}),
});
export type ExpertPlacement = z.infer<typeof expertPlacementSchema>;

/** Throws AppError `InvalidPlacement` that names the fields. */
export function parseExpertPlacement(object: unknown): ExpertPlacement {
  const parsed = expertPlacementSchema.safeParse(object);
  if (parsed.success) return parsed.data;
  throw new AppError(z.prettifyError(parsed.error), {
    code: "InvalidPlacement",
    operation: "reading an ExpertPlacement",
    cause: parsed.error,
  });
}
