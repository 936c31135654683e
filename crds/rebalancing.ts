// `rebalancing` of a MoEDeployment's spec: triggers, policy and costs of moving experts.
import { z } from "zod";
import { defaultPolicy, policyNames, rebalancingModes } from "./names.ts";
import { rules } from "./openapi.ts";
import { duration, quantity } from "./quantity.ts";

const trigger = z
  .object({
    imbalancePercent: z
      .int32()
      .max(10_000)
      .default(110)
      .meta({
        description: "Plan when the worst layer's max/mean load over ranks exceeds this percentage.",
        ...rules({ rule: "self >= 101", message: "must be at least 101: 100 is perfect balance" }),
      }),
    window: duration("Span of load a decision looks at.", { value: "1s", why: "workers report load three times in a window" }).default(
      "15s",
    ),
    minTokens: z.int32().min(0).default(5000).meta({ description: "Expert selections per layer below which a window is taken as noise." }),
  })
  .prefault({})
  .meta({ description: "When a new placement is worth computing." });

const policyText =
  "How placements are planned. incremental: from the present placement, the steps that pay for their transfer. " +
  "hecate, eplb: after the published systems.";
export const rebalancing = z
  .object({
    mode: z.enum(rebalancingModes).default("Auto").meta({
      description:
        "Auto moves experts. Recommend publishes the plan that Auto would carry out, in the status of ExpertPlacement. Off does neither. What losses, leaving and new ranks need is done in every mode.",
    }),
    policy: z.enum(policyNames).default(defaultPolicy).meta({ description: policyText }),
    trigger,
    interval: duration("Least time between two plans.").default("15s"),
    budget: z
      .object({
        maxMoves: z.int32().min(1).max(1_000_000).optional().meta({
          description: "Expert replicas one plan may newly place, never more. When not given: 64, and 128 right after a change of load.",
        }),
        maxMovesPerRank: z
          .int32()
          .min(1)
          .max(1_000_000)
          .optional()
          .meta({ description: "Expert replicas one plan may newly place on one rank; no limit of its own when not given." }),
        maxBytes: quantity("Bytes one plan may send.").optional(),
        maxTransferBytesPerSecond: quantity(
          "Bytes per second each rank may take while experts move for balance, less while tokens come slower. Repair, drain and fill are not limited.",
        ).default("64Mi"),
      })
      .prefault({})
      .meta({ description: "What one plan may cost." }),
  })
  .prefault({})
  .meta({ description: "How experts follow the load." });
