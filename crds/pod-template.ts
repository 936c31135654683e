// Pod templates of workers, gateways and training pods, which the operator merges into its own.
import { z } from "zod";
import { rules } from "./openapi.ts";

/** This also limits the cost of the CEL rule. */
const containersMax = 16;

/** Fields allowed in that container. */
const merged = {
  worker: "image, resources, env and mounts",
  gateway: "image, resources, env and mounts",
  training: "resources, env and mounts",
} as const;

const labelMap = z.record(z.string(), z.string());
/** CEL sees only declared fields; the API server keeps the rest, and the operator checks it. */
export const podTemplateOf = (pods: "worker" | "gateway" | "training", container: string) =>
  z
    .looseObject({
      metadata: z
        .looseObject({
          name: z.string().max(253).optional().meta({ description: "Not allowed: the operator names pods." }),
          namespace: z.string().max(63).optional().meta({ description: "Not allowed: pods are where the deployment is." }),
          labels: labelMap.optional().meta({ description: "Added to the operator's own." }),
          annotations: labelMap.optional().meta({ description: "Added to the operator's own." }),
        })
        .optional()
        .meta({
          description: `Labels and annotations for the ${pods} pods.`,
          ...rules({
            rule: "!has(self.name) && !has(self.namespace)",
            message: "name and namespace are the operator's; set labels and annotations only",
          }),
        }),
      spec: z
        .looseObject({
          containers: z
            .array(z.looseObject({ name: z.string().min(1).max(63).meta({ description: "By which containers are merged." }) }))
            .max(containersMax)
            .optional()
            .meta({
              description: `The container named ${container} is the ${pods}: ${merged[pods]} given here are merged into it. Others run beside it.`,
              "x-kubernetes-list-type": "map",
              "x-kubernetes-list-map-keys": ["name"],
              ...rules({
                rule: `self.exists(c, c.name == '${container}')`,
                message: `must hold a container named ${container}, the ${pods} itself`,
              }),
            }),
        })
        .optional()
        .meta({ description: `Pod spec fields merged into the ${pods} pods, such as nodeSelector and tolerations.` }),
    })
    .optional()
    .meta({ description: `Merged into the ${pods} pods; the operator's own fields cannot be replaced.` });
