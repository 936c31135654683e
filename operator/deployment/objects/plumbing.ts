// Services, ServiceAccount, disruption budgets and the ConfigMap of settings. Pure.
import { ports } from "../../../crds/common.ts";
import { settingEntries } from "../../../crds/process.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { names, objectMeta, type RenderContext, selectorLabels } from "./context.ts";

/** No permissions and no token: the pods never talk to the API server. */
export function serviceAccount(context: RenderContext): KubeObject {
  return {
    apiVersion: "v1",
    kind: "ServiceAccount",
    metadata: objectMeta(context, context.deployment.metadata.name, "shared"),
    automountServiceAccountToken: false,
  };
}

/** What the operator is set to, for pods that start: no part of their templates, so that another setting replaces none of them. */
export function settingsMap(context: RenderContext): KubeObject {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: objectMeta(context, names.settings(context.deployment.metadata.name), "shared"),
    data: settingEntries(context.settings),
  };
}

/** The Service through which clients come in. */
export function gatewayService(context: RenderContext): KubeObject {
  const { metadata, spec } = context.deployment;
  const { name } = metadata;
  const { front = selectorLabels(name, "gateway") } = context;
  // Ingresses and meshes read from it how to speak to the pods.
  const protocol = spec.gateway.tls ? { appProtocol: "https" } : {};
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: objectMeta(context, name, "gateway"),
    spec: {
      selector: front,
      ports: [{ name: "http", port: spec.service.port, targetPort: "http", protocol: "TCP", ...protocol }],
    },
  };
}

/** The Service for pods that start while the operator is away: they ask every rank that has an address, ready or not. */
export function workersService(context: RenderContext): KubeObject {
  const { name } = context.deployment.metadata;
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: objectMeta(context, names.workers(name), "worker"),
    spec: {
      clusterIP: "None",
      publishNotReadyAddresses: true,
      selector: selectorLabels(name, "worker"),
      ports: [{ name: "grpc", port: ports.grpc, targetPort: "grpc", protocol: "TCP" }],
    },
  };
}

/**
 * Voluntary disruptions take one rank at a time, so that its experts can move in between. One of the ranks that are wanted may be away,
 * where a share of `replicas` would count what is not acted on; a pod that is up in another's place counts, one that is going does not.
 */
export function workersBudget(context: RenderContext): KubeObject {
  const { metadata, spec, status } = context.deployment;
  const ranks = spec.suspend ? 0 : (status.expertParallel?.desiredRanks ?? spec.replicas);
  return budget(context, "worker", { name: names.workers(metadata.name), allows: { minAvailable: Math.max(0, ranks - 1) } });
}

export function gatewayBudget(context: RenderContext): KubeObject {
  return budget(context, "gateway", { name: names.gateway(context.deployment.metadata.name), allows: { maxUnavailable: 1 } });
}

function budget(context: RenderContext, component: "worker" | "gateway", { name, allows }: { name: string; allows: object }): KubeObject {
  return {
    apiVersion: "policy/v1",
    kind: "PodDisruptionBudget",
    metadata: objectMeta(context, name, component),
    spec: { ...allows, selector: { matchLabels: selectorLabels(context.deployment.metadata.name, component) } },
  };
}
