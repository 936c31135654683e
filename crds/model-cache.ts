// spec.model.cache and spec.model.resources: where a downloaded model is stored, and resources of the download pods.
import { z } from "zod";
import { rules } from "./openapi.ts";
import { quantity } from "./quantity.ts";

export const objectName = z
  .string()
  .min(1)
  .max(253)
  .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/);

export const modelCache = z
  .object({
    persistentVolumeClaim: z
      .object({ claimName: objectName.meta({ description: "Name of the claim, in the namespace of the deployment." }) })
      .optional()
      .meta({
        description:
          "The claim that the store is kept in, in a folder by URI and codec: other deployments with the same ones find it there. It has room for the download and the store at once. An older store stays until somebody deletes it. Where it can be mounted on one node alone, a weight server serves it to ranks elsewhere.",
      }),
    ephemeral: z
      .object({
        sizeLimit: quantity(
          "Disk of the weight server's node that the model may take: the download and the store that is made of it, which are there at once.",
        ),
      })
      .optional()
      .meta({
        description:
          "No claim: one pod, the weight server, downloads the model onto its node's disk, and ranks fetch what they need from each other and from it. A weight server that is lost downloads anew; ranks that serve go on.",
      }),
  })
  .optional()
  .meta({
    description: "Where a model that is downloaded is kept; required for such a URI.",
    ...rules({
      rule: "has(self.persistentVolumeClaim) != has(self.ephemeral)",
      message: "needs either persistentVolumeClaim or ephemeral",
    }),
  });

const amount = (description: string) =>
  z
    .union([
      z.int().min(0),
      z
        .string()
        .max(24)
        .regex(/^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$/),
    ])
    .optional()
    .meta({ description, "x-kubernetes-int-or-string": true });

const amounts = (description: string) =>
  z
    .object({
      cpu: amount("CPUs, such as 2 or 500m."),
      memory: amount("Bytes of memory, such as 4Gi."),
      "ephemeral-storage": amount("Bytes of the node's disk, such as 200Gi; with cache.ephemeral the model is on it."),
    })
    .optional()
    .meta({ description });

export const modelResources = z
  .object({
    requests: amounts("What the pod is sure to get; 500m of CPU and 1Gi of memory where it is not given."),
    limits: amounts("What the pod may take at most."),
  })
  .optional()
  .meta({ description: "Resources of the pods that bring the model: the Job that downloads it, and the weight server." });
