// `rolloutStrategy` of the spec, named as in Deployments and StatefulSets, and `rollout` of the status.
import { z } from "zod";
import { onFailureChoices, rolloutTypes } from "./names.ts";
import { rules } from "./openapi.ts";
import { duration } from "./quantity.ts";

const nameMax = 63;
const phases = ["Starting", "Baking", "Returning", "Baked", "Serving", "Leaving"] as const;

const greenSchema = z
  .object({
    name: z.string().max(nameMax).meta({ description: "Name of the owned MoEDeployment, in the same namespace." }),
    phase: z.enum(phases).meta({
      description:
        "Starting while the ranks before serve, Baking while it has a share of the requests as a canary, Returning when it does not serve any more meanwhile, Baked when it has passed and gets what it lacks of the deployment's gateways and ranks, Serving while the Service leads to it alone, Leaving when it is not needed any more.",
    }),
    since: z.iso.datetime().meta({ description: "When that began." }),
  })
  .meta({ description: "The deployment that serves another model or codec while the ranks change to it." });
export type GreenStatus = z.infer<typeof greenSchema>;

const bounds = { ranks: 1024, budget: 64, hash: 64, id: 64, message: 1024 } as const;
const sharePattern = "^(100|[1-9]?[0-9])%$";

/** A number of ranks, or a share of the wanted ones as "25%". */
const budget = (description: string) =>
  z.union([z.int().min(0).max(bounds.budget), z.string().max(4).regex(new RegExp(sharePattern))]).meta({
    description: `${description} A number, or a share of the wanted ranks such as 25%.`,
    "x-kubernetes-int-or-string": true,
    maxLength: 4,
    ...rules({
      rule: `type(self) == int ? self >= 0 && self <= ${bounds.budget} : self.matches('${sharePattern}')`,
      message: `must be a number from 0 to ${bounds.budget}, or a share from 0% to 100%`,
    }),
  });

interface Asked {
  readonly maxSurge: number | string;
  readonly maxUnavailable: number | string;
}

export interface Budgets {
  readonly surge: number;
  readonly unavailable: number;
}

/** Rounds as a Deployment does: surge up, unavailable down; if both are 0, one rank may be unavailable. */
export function budgetsOf({ maxSurge, maxUnavailable }: Asked, ranks: number): Budgets {
  const of = (value: number | string): number =>
    typeof value === "number" ? value : Math.min(bounds.budget, (Number(value.slice(0, -1)) * ranks) / 100);
  const [surge, unavailable] = [Math.ceil(of(maxSurge)), Math.floor(of(maxUnavailable))];
  return { surge, unavailable: surge + unavailable === 0 ? 1 : unavailable };
}

const analysis = z
  .object({
    bake: duration("How long they must serve before the others follow.").default("5m"),
    errorRatePercent: z.int32().min(0).max(100).optional().meta({
      description:
        "Points by which the share of their requests that fail may be above that of the other ranks. Not compared when not given.",
    }),
    latencyPercent: z.int32().min(100).max(10_000).optional().meta({
      description:
        "Time from one token of a request to its next, in percent of that of the other ranks, at most. Not compared when not given.",
    }),
    minRequests: z.int32().min(0).max(1_000_000).default(20).meta({
      description:
        "Requests that canaries and other ranks must each have ended before they are compared: with fewer the canaries bake on, since missing numbers are no zeros.",
    }),
  })
  .prefault({})
  .meta({ description: "What they have to stand." });
export type RolloutAnalysis = z.infer<typeof analysis>;

const canary = z
  .object({
    ranks: z.int32().min(1).max(bounds.ranks).default(1).meta({ description: "Ranks that get the new template first." }),
    analysis,
  })
  .meta({
    description:
      "The first ranks of a new template serve beside the others for a while, and the others follow when nothing was wrong with them. When not given, they follow at once.",
  });

export const rolloutStrategy = z
  .object({
    type: z.enum(rolloutTypes).default("RollingUpdate").meta({
      description:
        "RollingUpdate replaces ranks of an old template by itself. OnDelete leaves that to whoever deletes their pods: what is made from then on is of the new template.",
    }),
    maxSurge: budget(
      "Pods of the new template that may be there beside the wanted ranks: they serve before old ones are emptied. A share is rounded up.",
    ).default(1),
    maxUnavailable: budget(
      "Wanted ranks that may be without a serving pod while they are replaced; a share is rounded down. Where a node or a quota has no capacity for one more pod, one rank at a time is emptied first all the same.",
    ).default(0),
    partition: z
      .int32()
      .min(0)
      .max(bounds.ranks)
      .default(0)
      .meta({ description: "Ranks that keep the template they have; lost ones of them are made of it again." }),
    paused: z
      .boolean()
      .default(false)
      .meta({ description: "True replaces no further rank: what has begun is finished, and lost ranks are made of the template before." }),
    progressDeadline: duration("How long a pod of the new template may take to serve before the roll has failed.", {
      value: "1s",
      why: "a pod takes some time to start",
    }).default("10m"),
    onFailure: z.enum(onFailureChoices).default("RollBack").meta({
      description:
        "RollBack brings all ranks back to the last template with which every rank has served, when a pod of the new one crashes three times, names an image that cannot be, or is not ready within progressDeadline. That template stays in effect until the spec names another, or the roll is tried again. Wait leaves the roll as it is.",
    }),
    canary: canary.optional(),
  })
  .prefault({})
  .meta({
    description: "How ranks are replaced when their template changes.",
    ...rules({
      // The server checks the default before it fills in the default's own fields.
      rule: "!has(self.maxSurge) || !has(self.maxUnavailable) || !((self.maxSurge == 0 || self.maxSurge == '0%') && (self.maxUnavailable == 0 || self.maxUnavailable == '0%'))",
      message: "maxSurge and maxUnavailable must not both be 0: no rank could be replaced",
      fieldPath: ".maxUnavailable",
    }),
  });

const revision = (description: string) => z.int().min(0).optional().meta({ description });
const hash = (description: string) => z.string().max(bounds.hash).optional().meta({ description });

export const rollbackReasons = [
  "Crashing",
  "ImageUnavailable",
  "ProgressDeadlineExceeded",
  "ErrorRateExceeded",
  "LatencyExceeded",
] as const;
export type RollbackReason = (typeof rollbackReasons)[number];

const rolledBackSchema = z
  .object({
    id: z.string().max(bounds.id).meta({ description: "Of the operation that failed; the annotation enodia.dev/retry-rollout names it." }),
    templateHash: z.string().max(bounds.hash).meta({ description: "The template that failed; it is not made again." }),
    fromRevision: z.int().min(0).meta({ description: "Its revision; 0 where a green deployment failed, and it never took effect." }),
    toRevision: z.int().min(0).meta({ description: "The revision that was gone back to." }),
    reason: z
      .string()
      .max(64)
      .meta({ description: "Crashing, ImageUnavailable, ProgressDeadlineExceeded, ErrorRateExceeded or LatencyExceeded." }),
    message: z.string().max(bounds.message).meta({ description: "What went wrong with which pod." }),
    time: z.iso.datetime().meta({ description: "When." }),
  })
  .meta({ description: "The roll that was rolled back, as long as the spec still asks for it." });
export type RolledBack = z.infer<typeof rolledBackSchema>;

const rolloutPhases = ["Complete", "Progressing", "Paused", "Partitioned", "Baking", "OnDelete", "RollingBack", "RolledBack"] as const;
export type RolloutPhase = (typeof rolloutPhases)[number];

export const rolloutStatusSchema = z
  .object({
    phase: z.enum(rolloutPhases).meta({ description: "How far it is." }),
    message: z.string().max(bounds.message).optional().meta({ description: "What it waits for." }),
    revision: revision("Revision in effect: of the ControllerRevision that worker pods are made of."),
    templateHash: hash("Hash of its worker template, as pods have it in the annotation enodia.dev/template-hash."),
    stableRevision: revision("The last revision with which every rank has served."),
    stableTemplateHash: hash("Hash of its worker template."),
    updatedRanks: z.int32().min(0).optional().meta({ description: "Ranks that serve with the revision in effect." }),
    bakeStart: z.iso.datetime().optional().meta({ description: "Since when the canaries serve." }),
    bakedTemplateHash: hash("The template whose canaries have passed."),
    green: greenSchema.optional(),
    rolledBack: rolledBackSchema.optional(),
  })
  .meta({ description: "The worker templates in use." });
export type RolloutStatus = z.infer<typeof rolloutStatusSchema>;
