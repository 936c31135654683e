// `scheduling` of a MoEDeployment's spec: topology and gangs of ranks.
import { z } from "zod";
import { defaultGang, gangChoices, topologyModes } from "./names.ts";
import { rules } from "./openapi.ts";

/** Kubernetes' bounds of a label key: prefix, slash and name. */
const keyMax = 317;
const keyPattern = "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

const topology = z
  .object({
    key: z
      .string()
      .min(1)
      .max(keyMax)
      .meta({
        description: "Label of nodes whose values are the domains, such as topology.kubernetes.io/rack.",
        ...rules({
          rule: `self.matches('${keyPattern}')`,
          message: "must be the key of a node label, such as topology.kubernetes.io/zone or example.com/rack",
        }),
      }),
    mode: z.enum(topologyModes).meta({
      description:
        "Pack prefers nodes of the domain where the deployment's ranks are, and there nodes without one. Spread prefers domains with fewer of them. Neither keeps a rank from running where there is room only elsewhere.",
    }),
  })
  .optional()
  .meta({
    description:
      "Where ranks run relative to each other, by a label of nodes. The planner takes its values for parts of a zone: expert replicas cost more from one to another. A change is a roll.",
  });

/** `ranks` start together. */
const gangOf = (ranks: string) =>
  z
    .enum(gangChoices)
    .default(defaultGang)
    .meta({
      description: `Who starts ${ranks} together or not at all. Coscheduling and Volcano make a PodGroup of that scheduler, and are refused while the cluster does not have its API. Auto takes the one that the cluster has, and none without. Pods go to that scheduler unless podTemplate names another.`,
    });
const gang = gangOf("the ranks that hold all experts");

export const scheduling = z.object({ topology, gang }).prefault({}).meta({ description: "Where and with whom ranks find room." });

export const trainingScheduling = z
  .object({ gang: gangOf("the least ranks that can train (elasticity.minReplicas, and those whose memory is enough)") })
  .prefault({})
  .meta({ description: "With whom ranks find room. The result does not depend on it." });
