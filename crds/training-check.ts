// The check of a training job in its status: the checked spec, the pod, failures and the result. The operator creates no training pods
// before it says Fits.
import { z } from "zod";
import { endBytesMax, type RankSizes, rankSizesSchema } from "./training-report.ts";

const count = z.int32().min(0);

export const trainingCheckSchema = z
  .object({
    generation: z.int().min(0).meta({ description: "Generation of the spec that it is about." }),
    hash: z
      .string()
      .max(64)
      .meta({ description: "Of all in the spec that it depends on: another generation with the same is not checked again." }),
    attempt: count.meta({ description: "The number of its newest pod." }),
    failures: count.optional().meta({ description: "Pods of it that failed, and were replaced. Evictions do not count." }),
    lastEnd: z
      .object({
        message: z.string().max(1024).meta({ description: "For people." }),
        time: z.iso.datetime().meta({ description: "When the operator saw it." }),
        repeated: count.meta({ description: "Such ends in a row; the pause before the next try doubles with each." }),
      })
      .optional()
      .meta({ description: "The last end of a pod that had found nothing, by a failure or an eviction." }),
    fits: z
      .object({
        message: z.string().max(endBytesMax).meta({ description: "What ranks need, and have." }),
        sizes: rankSizesSchema.optional().meta({
          description: "Ranks of each world whose memory is enough. Left out where that is not known, as where experts spawn.",
        }),
      })
      .optional()
      .meta({ description: "What it found where the job may begin; left out while that is not known." }),
  })
  .meta({ description: "The check of the job before its pods are made." });
export type TrainingCheck = z.infer<typeof trainingCheckSchema>;

/** Whether `ranks` in `worlds` have enough memory. */
export function fitsIn({ leastRanks = Number.POSITIVE_INFINITY, alone }: RankSizes, ranks: number, worlds: number): boolean {
  const fits = (each: number): boolean => (each === 1 ? alone : each >= leastRanks);
  return fits(Math.floor(ranks / worlds)) && fits(Math.ceil(ranks / worlds));
}

/** Any spec change repeats a refused check, since the contents of its claims may have changed too. */
export function unanswered(check: TrainingCheck): TrainingCheck {
  const { generation, hash, attempt, fits } = check;
  return fits === undefined ? check : { generation, hash, attempt: attempt + 1 };
}
