// `elasticity.autoscale` of a MoEDeployment's spec, and `autoscale` of its status.
import { z } from "zod";
import { rules } from "./openapi.ts";
import { duration } from "./quantity.ts";

/** A gateway's request timeout bounds the wait for the first rank. */
const holdTimeoutMax = "10m";

const scaleToZero = z
  .object({
    idleAfter: duration("How long no gateway may have had a request, and no rank one to compute, before all ranks go.", {
      value: "1s",
      why: "ranks that go with every request serve nobody",
    }).default("10m"),
    holdTimeout: duration(
      "How long a gateway lets a request wait for the first rank to come back; then it answers 503. Clients must be as patient.",
      { value: "1s", why: "no rank is there at once" },
    ).default("5m"),
  })
  .optional()
  .meta({
    description:
      "When given, replicas become 0 when nobody asks, and the least ranks again with the first request, which the gateways hold meanwhile. What is not known is not idle: it needs to hear every gateway and every rank that serves.",
    ...rules({
      rule: `!has(self.holdTimeout) || duration(self.holdTimeout) <= duration('${holdTimeoutMax}')`,
      message: `holdTimeout must be at most ${holdTimeoutMax}: a gateway ends every request after that`,
      fieldPath: ".holdTimeout",
    }),
  });

export const autoscaleMetrics = ["queuedTokensPerRank", "kvUse", "tokensPerSecondPerRank"] as const;
export type AutoscaleMetricName = (typeof autoscaleMetrics)[number];

const bounds = { ranks: 1024, target: 1_000_000_000, message: 512 } as const;
const windowMax = "1h";

const ranks = z.int32().min(1).max(bounds.ranks);

const metric = z
  .object({
    name: z.enum(autoscaleMetrics).meta({
      description:
        "queuedTokensPerRank is tokens of prompts that wait or are being computed, kvUse the percentage of the attention cache that open requests hold, tokensPerSecondPerRank the tokens of prompts and answers computed in a second; each the mean over ranks and 15 s.",
    }),
    target: z.int32().min(1).max(bounds.target).meta({ description: "The mean that is aimed at. kvUse is in percent." }),
  })
  .meta({
    description: "A figure that ranks report of themselves, and what it is to be.",
    ...rules({ rule: "self.name != 'kvUse' || self.target <= 100", message: "kvUse is a percentage: at most 100", fieldPath: ".target" }),
  });

function direction(description: string, defaults: { readonly window: string; readonly maxRanks: number; readonly period: string }) {
  return z
    .object({
      stabilizationWindow: duration(
        "How long the metrics must have asked for it: of all numbers in this time the most cautious one counts.",
      ).default(defaults.window),
      maxRanks: ranks.default(defaults.maxRanks).meta({ description: "Ranks that one step changes, at most." }),
      period: duration("The least time from one step to the next in the same direction.").default(defaults.period),
    })
    .prefault({})
    .meta({
      description,
      ...rules({
        rule: `!has(self.stabilizationWindow) || duration(self.stabilizationWindow) <= duration('${windowMax}')`,
        message: `stabilizationWindow must be at most ${windowMax}`,
        fieldPath: ".stabilizationWindow",
      }),
    });
}

export const autoscale = z
  .object({
    min: ranks.default(1).meta({ description: "Least ranks. What holds all experts counts too, where it is more." }),
    max: ranks.meta({ description: "Most ranks." }),
    metrics: z
      .array(metric)
      .min(1)
      .max(autoscaleMetrics.length)
      .meta({
        description: "What is aimed at; of several the one that asks for most ranks counts.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
      }),
    behaviour: z
      .object({
        scaleUp: direction("Of more ranks.", { window: "0s", maxRanks: 4, period: "15s" }),
        scaleDown: direction("Of fewer ranks.", { window: "5m", maxRanks: 1, period: "1m" }),
      })
      .prefault({})
      .meta({ description: "How fast it may go." }),
    scaleToZero,
  })
  .optional()
  .meta({
    description:
      "When given, the operator sets replicas by the load that ranks report, through /scale as the manager enodia-autoscaler. It stops where somebody else sets replicas, too: the condition ScalingActive says who.",
    ...rules({ rule: "self.min <= self.max", message: "min must not be above max", fieldPath: ".min" }),
  });
export type Autoscale = NonNullable<z.infer<typeof autoscale>>;

const measured = z
  .object({
    name: z.string().max(64).meta({ description: "The metric." }),
    value: z.int().min(0).meta({ description: "Mean of the ranks that serve, to two digits." }),
    target: z.int().min(0).meta({ description: "What it is to be." }),
    ranks: z.int().min(0).meta({ description: "Ranks that it asks for." }),
  })
  .meta({ description: "A metric as it is now." });

export const autoscaleStatus = z
  .object({
    metrics: z
      .array(measured)
      .max(autoscaleMetrics.length)
      .optional()
      .meta({ description: "The metrics, as far as all ranks report them.", "x-kubernetes-list-type": "atomic" }),
    progress: z.string().max(128).optional().meta({ description: "The metrics beside their targets, in one line." }),
    lastScale: z
      .object({
        time: z.iso.datetime().meta({ description: "When." }),
        from: z.int32().min(0).meta({ description: "Replicas before." }),
        to: z.int32().min(0).meta({ description: "Replicas since." }),
        message: z.string().max(bounds.message).meta({ description: "Why." }),
      })
      .optional()
      .meta({ description: "The last time that the autoscaler set replicas." }),
  })
  .optional()
  .meta({ description: "The autoscaler of ranks; left out where the spec asks for none." });
export type AutoscaleStatus = NonNullable<z.infer<typeof autoscaleStatus>>;
