// The HorizontalPodAutoscaler of the gateways. It measures one container, since a sidecar without a CPU request would leave it without a
// figure. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { gatewayKind } from "../../pods/pod-template.ts";
import { names, objectMeta, type RenderContext } from "./context.ts";

export type GatewayAutoscale = NonNullable<MoEDeploymentSpec["gateway"]["autoscale"]>;

export function gatewayAutoscaler(context: RenderContext, autoscale: GatewayAutoscale): KubeObject {
  const { minReplicas, maxReplicas, targetCPUUtilizationPercentage } = autoscale;
  const target = { type: "Utilization", averageUtilization: targetCPUUtilizationPercentage };
  const name = names.gateway(context.deployment.metadata.name);
  return {
    apiVersion: resources.horizontalPodAutoscalers.apiVersion,
    kind: resources.horizontalPodAutoscalers.kind,
    metadata: objectMeta(context, name, "gateway"),
    spec: {
      scaleTargetRef: { apiVersion: resources.deployments.apiVersion, kind: resources.deployments.kind, name },
      minReplicas,
      maxReplicas,
      metrics: [{ type: "ContainerResource", containerResource: { name: "cpu", container: gatewayKind.container, target } }],
    },
  };
}
