// Status of a MoETrainingJob, written by the operator.
import { z } from "zod";
import { conditionsSchema } from "./conditions.ts";
import { trainingCheckSchema } from "./training-check.ts";
import { copiesSchema, curvePointsMax, endBytesMax, shareQuantiles, stepsMax } from "./training-report.ts";
import { ranksMax, trainingWorldSchema } from "./training-world.ts";

const count = z.int32().min(0);
const step = z.int32().min(0).max(stepsMax);
const text = z.string().max(64);

/** A pod's early end. */
const podEnd = (ends: string) =>
  z.object({
    reason: z.string().max(128).meta({ description: "In one word." }),
    message: z.string().max(1024).meta({ description: "For people." }),
    time: z.iso.datetime().meta({ description: "When the operator saw it." }),
    step: step.meta({ description: "The last step that was known to be done then." }),
    repeated: count.meta({
      description: `${ends} in a row without a new step, pods of one cause as one; the pause before the next try doubles with each.`,
    }),
  });

export const moeTrainingJobStatusSchema = z
  .object({
    observedGeneration: z.int().min(0).optional().meta({ description: "Generation of the spec that this status is about." }),
    replicas: count.optional().meta({ description: "Pods that there are." }),
    readyReplicas: count.optional().meta({ description: "Pods that train." }),
    selector: z.string().max(512).optional().meta({ description: "Selects the pods, for /scale." }),
    step: step.optional().meta({ description: "The last step that is known to be done." }),
    progress: text.optional().meta({ description: "Share of the steps that are done." }),
    loss: text.optional().meta({ description: "Of that step." }),
    validationLoss: text.optional().meta({ description: "At the newest checkpoint, where there is data for it." }),
    gradientNorm: text.optional().meta({ description: "Of that step, before it is clipped." }),
    imbalance: text
      .optional()
      .meta({ description: "Rows of its busiest expert over the mean, in the layer where that is most; 1 is even." }),
    spread: z
      .object({
        imbalanceAtPrimaries: text.meta({
          description: "Rows of the busiest rank over the mean, were each expert at its primary alone, in the layer where that is most.",
        }),
        imbalance: text.meta({ description: "The same as rows were computed, with copies." }),
        copied: text.meta({ description: "Share of experts that had copies." }),
        exposedSeconds: text.meta({ description: "Time in which the first rank waited for copies and sums of gradients alone." }),
        bytes: z.int().min(0).meta({ description: "Bytes of copies and sums that the first rank sent." }),
        expertShares: z
          .array(text)
          .max(shareQuantiles.length)
          .meta({
            description: `Shares of a layer's rows at these places among its experts, from the idlest to the busiest: ${shareQuantiles.join(", ")}.`,
            "x-kubernetes-list-type": "atomic",
          }),
      })
      .optional()
      .meta({ description: "How the last step lay on the ranks." }),
    tokensPerSecond: z.int().min(0).optional().meta({ description: "Over the last steps." }),
    eta: text.optional().meta({ description: "Time that is left, at this speed." }),
    copies: copiesSchema.optional(),
    world: trainingWorldSchema.optional(),
    attempts: z
      .array(count)
      .max(ranksMax)
      .optional()
      .meta({ description: "Pods that each rank has had before its newest.", "x-kubernetes-list-type": "atomic" }),
    restarts: count.optional().meta({ description: "Pods that failed and were replaced. Evictions and suspensions do not count." }),
    image: z.string().max(512).optional().meta({ description: "Image that the job began with, and keeps." }),
    lastFailure: podEnd("Failures").optional().meta({ description: "The last failure of a pod." }),
    lastStop: podEnd("Such ends").optional().meta({ description: "The last end of a pod that is no failure: by an eviction, by hand." }),
    refusal: z
      .object({
        generation: z.int().min(0).meta({ description: "Generation of the spec; a changed spec is tried again." }),
        reason: text.meta({ description: "In one word." }),
        message: z.string().max(endBytesMax).meta({ description: "For people." }),
      })
      .optional()
      .meta({ description: "What a pod found wrong with the spec or its data." }),
    check: trainingCheckSchema.optional(),
    curve: z
      .array(
        z.object({
          step: step.meta({ description: "Step." }),
          loss: text.meta({ description: "Its loss." }),
        }),
      )
      .max(curvePointsMax)
      .optional()
      .meta({ description: "The loss over all steps, in few points. All of them: metrics.jsonl.", "x-kubernetes-list-type": "atomic" }),
    result: z
      .object({
        store: z.string().max(600).meta({ description: "The model store, which a MoEDeployment serves." }),
        huggingface: z.string().max(600).meta({ description: "The same as a Hugging Face folder." }),
        adapters: z
          .string()
          .max(600)
          .optional()
          .meta({ description: "What was trained beside the model's own weights, where spec.adapters says so." }),
      })
      .optional()
      .meta({ description: "Where the trained model is." }),
    startTime: z.iso.datetime().optional().meta({ description: "When the first pod was made." }),
    completionTime: z.iso.datetime().optional().meta({ description: "When all steps were done." }),
    conditions: conditionsSchema.optional(),
  })
  .meta({ description: "How far it is." });
export type MoETrainingJobStatus = z.infer<typeof moeTrainingJobStatusSchema>;
