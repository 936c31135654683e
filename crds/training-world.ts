// The world of a training job: which pods train together, decided by the operator, and what the two say to each other about it over mutual
// TLS. Both sides parse it as strangers' bytes. Pure.
import { z } from "zod";
import { trainingReportSchema } from "./training-report.ts";

/** Ranks of one world, at most. */
export const ranksMax = 1024;
/** Bytes of an order and of an answer: a world of the most ranks, with as many that leave, has room in it whatever its names. */
export const worldBytesMax = 2 * 1024 * 1024;
export const worldPath = "/world";
const messageCharsMax = 1024;

/** What certificates call a job: no deployment can have that name, since names have no dot. */
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

/** Ranks, then those that leave. */
export const membersOf = ({ ranks, leaving = [] }: Pick<TrainingWorld, "ranks" | "leaving">): readonly WorldMember[] => [
  ...ranks,
  ...leaving,
];

/** What the operator tells a pod, again and again. A field that the pod does not know is refused, never passed over. */
export const worldOrderSchema = z.strictObject({
  /** Uid of the job, and of the pod that is meant. */
  job: uid,
  pod: uid,
  /** Left out while there is none yet. */
  world: trainingWorldSchema
    .extend({
      ranks: z.array(memberSchema.strict()).min(1).max(ranksMax),
      leaving: z.array(memberSchema.strict()).max(ranksMax).optional(),
    })
    .strict()
    .optional(),
  /** Of a pod that is being deleted: no world takes what it has, so that it ends with a checkpoint. */
  stop: z.literal(true).optional(),
});
export type WorldOrder = z.infer<typeof worldOrderSchema>;

/** What a pod answers. Newer pods may say more. */
export const podWordsSchema = z.object({
  pod: uid,
  /** The newest world that it was told of; 0: none. */
  epoch: z.int32().min(0),
  /** The world that it trains in now; 0: none. */
  training: z.int32().min(0),
  /** The last world that it left before all steps were done, and why. */
  left: z.object({ epoch, code: z.string().max(64), message: z.string().max(messageCharsMax) }).optional(),
  /** It was told to end, by whomever, and waits for a world to hand on what it has. */
  leaving: z.boolean().optional(),
  /** The least ranks whose memory is enough, as it reckons; left out while it is not known. */
  leastRanks: z.int32().min(1).max(ranksMax).optional(),
  progress: trainingReportSchema,
});
export type PodWords = z.infer<typeof podWordsSchema>;

/** The reason for leaving, cut to what may be said. */
export const leftOf = (of: number, code: string, message: string): NonNullable<PodWords["left"]> => ({
  epoch: of,
  code,
  message: message.slice(0, messageCharsMax),
});
