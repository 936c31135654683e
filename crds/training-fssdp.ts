// How ranks of a training job share experts: who plans replicas, from what, and at which cost. No choice changes a bit of the result.
import { z } from "zod";
import { dispatchNames, rematerializeNames, trainingPlannerNames } from "./names.ts";

const bounds = { slots: 4096, window: 1000, steps: 1_000_000 } as const;
const autoPattern = `^(Auto|[0-9]{1,4})$`;

const countOrAuto = (description: string) =>
  z
    .union([z.int().min(0).max(bounds.slots), z.string().regex(new RegExp(autoPattern))])
    .default("Auto")
    .meta({
      description,
      "x-kubernetes-int-or-string": true,
      maxLength: 4,
      pattern: autoPattern,
      "x-kubernetes-validations": [
        {
          rule: `type(self) == int ? self >= 0 && self <= ${bounds.slots} : true`,
          message: `must be Auto, or from 0 to ${bounds.slots}`,
        },
      ],
    });

export const fssdpSchema = z
  .object({
    planner: z.enum(trainingPlannerNames).default("auto").meta({ description: "Who decides which ranks have copies of which experts." }),
    dispatch: z.enum(dispatchNames).default("Exact").meta({
      description: "Exact deals rows evenly over the ranks that have an expert; LocalFirst keeps them where they are if it can.",
    }),
    rematerialize: z.enum(rematerializeNames).default("Never").meta({
      description: "AfterForward drops copies after forward and brings them again for backward: less memory, twice the bytes.",
    }),
    memorySlots: countOrAuto("Copies of a layer's experts that each rank has room for."),
    microBatchesAtOnce: countOrAuto(
      "Micro-batches of all ranks that pass forward and backward together: a power of two, at least elasticity.maxReplicas. Memory is for these. Auto is one on a single rank and all on several; with a loss of balance it is always all.",
    ),
    overlapDegree: countOrAuto("Copies of a layer that come while the one before computes."),
    window: z.int32().min(1).max(bounds.window).default(5).meta({ description: "Steps whose counts of rows are the forecast." }),
    reshardSteps: z.int32().min(1).max(bounds.steps).default(100).meta({ description: "Steps between two moves of experts' primaries." }),
  })
  .prefault({})
  .meta({ description: "How ranks share experts. The result depends on none of it." });
export type FssdpSpec = z.infer<typeof fssdpSchema>;

/** Undefined for Auto. */
export const countOf = (value: FssdpSpec["memorySlots"]): number | undefined =>
  Number.isInteger(Number(value)) ? Number(value) : undefined;

interface MicroBatches {
  readonly microBatches: number;
  readonly ranks: number;
  /** The responsible part of the spec. */
  readonly by: string;
}

/** Undefined where concurrent micro-batches are fine. */
export function microBatchesAtOnceProblem(
  { microBatchesAtOnce }: FssdpSpec,
  { microBatches, ranks, by }: MicroBatches,
): string | undefined {
  const count = countOf(microBatchesAtOnce);
  if (count === undefined || (count >= ranks && count <= microBatches && Number.isInteger(Math.log2(count)))) return undefined;
  return `spec.fssdp.microBatchesAtOnce is ${count}; it must be Auto, or a power of two from ${by} (${ranks}) to batch.microBatches (${microBatches})`;
}
