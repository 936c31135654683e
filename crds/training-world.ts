// The protocol over mutual TLS by which the operator tells pods of a training job who trains together (a world). Both sides parse untrusted
// input.
import { z } from "zod";
import { trainingReportSchema } from "./training-report.ts";

export const ranksMax = 1024;
/** Fits the most ranks, with as many that leave. */
export const worldBytesMax = 2 * 1024 * 1024;
export const worldPath = "/world";
const messageCharsMax = 1024;

/** Deployment names have no dot, so none collides. */
export const trainingScope = (job: string): string => `${job}.train`;

const uid = z.string().min(1).max(64);
const name = z.string().min(1).max(253);
const epoch = z.int32().min(1);

const memberSchema = z.object({
  rank: z
    .int32()
    .min(0)
    .max(ranksMax - 1)
    .meta({ description: "That of its pod, which its certificate has. Its place in the world is its place in the list." }),
  pod: name.meta({ description: "Its pod." }),
  uid: uid.meta({ description: "Of that pod." }),
  ip: z.string().min(1).max(64).meta({ description: "Where the others reach it." }),
  node: z.string().max(253).meta({ description: "Where it runs." }),
});
export type WorldMember = z.infer<typeof memberSchema>;

export const trainingWorldSchema = z
  .object({
    epoch: epoch.meta({ description: "Counted up with each change of its pods." }),
    since: z.iso.datetime().meta({ description: "When it was decided." }),
    ranks: z.array(memberSchema).min(1).max(ranksMax).meta({ description: "In order of rank.", "x-kubernetes-list-type": "atomic" }),
    leaving: z.array(memberSchema).max(ranksMax).optional().meta({
      description: "Pods of the world before that end: they hand what they have to these ranks, and make no step.",
      "x-kubernetes-list-type": "atomic",
    }),
  })
  .meta({ description: "The pods that train together, as it was decided last." });
export type TrainingWorld = z.infer<typeof trainingWorldSchema>;

export const membersOf = ({ ranks, leaving = [] }: Pick<TrainingWorld, "ranks" | "leaving">): readonly WorldMember[] => [
  ...ranks,
  ...leaving,
];

/** A pod refuses unknown fields. */
export const worldOrderSchema = z.strictObject({
  /** Uids of the job and the addressed pod. */
  job: uid,
  pod: uid,
  world: trainingWorldSchema
    .extend({
      ranks: z.array(memberSchema.strict()).min(1).max(ranksMax),
      leaving: z.array(memberSchema.strict()).max(ranksMax).optional(),
    })
    .strict()
    .optional(),
  /** The pod is being deleted without a successor world, so it ends with a checkpoint. */
  stop: z.literal(true).optional(),
});
export type WorldOrder = z.infer<typeof worldOrderSchema>;

/** Newer pods may add fields. */
export const podReportSchema = z.object({
  pod: uid,
  /** The newest known world; 0: none. */
  epoch: z.int32().min(0),
  /** The current world; 0: none. */
  training: z.int32().min(0),
  /** The last world that it left early. */
  left: z.object({ epoch, code: z.string().max(64), message: z.string().max(messageCharsMax) }).optional(),
  /** Asked to end, it waits for a world that takes over its state. */
  leaving: z.boolean().optional(),
  /** Estimate of ranks with enough memory. */
  leastRanks: z.int32().min(1).max(ranksMax).optional(),
  progress: trainingReportSchema,
});
export type PodReport = z.infer<typeof podReportSchema>;

export const leftOf = (of: number, code: string, message: string): NonNullable<PodReport["left"]> => ({
  epoch: of,
  code,
  message: message.slice(0, messageCharsMax),
});
