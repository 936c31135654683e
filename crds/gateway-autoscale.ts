// `gateway.autoscale` of a MoEDeployment's spec.
import { z } from "zod";
import { rules } from "./openapi.ts";

export const gatewayReplicasMost = 64;

export const gatewayAutoscale = z
  .object({
    minReplicas: z.int32().min(1).max(gatewayReplicasMost).default(1).meta({ description: "Least gateway pods." }),
    maxReplicas: z.int32().min(1).max(gatewayReplicasMost).meta({ description: "Most gateway pods." }),
    targetCPUUtilizationPercentage: z.int32().min(1).max(10_000).default(80).meta({
      description:
        "Mean use of CPU by the gateway containers that is aimed at, in percent of their CPU request: of 100m, or what gateway.podTemplate asks for.",
    }),
  })
  .meta({
    description:
      "Makes a HorizontalPodAutoscaler <name>-gateway, which needs the cluster's resource metrics (metrics-server). Not beside replicas.",
    ...rules({
      rule: "self.minReplicas <= self.maxReplicas",
      message: "minReplicas must not be above maxReplicas",
    }),
  });
