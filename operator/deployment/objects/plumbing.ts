// Services, ServiceAccount, disruption budgets and the ConfigMap of settings. Pure.
import { ports } from "../../../crds/common.ts";
import { settingEntries } from "../../../crds/process.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { names, objectMeta, type RenderContext, selectorLabels } from "./context.ts";

/** Pods never call the API server. */
export function serviceAccount(context: RenderContext): KubeObject {
  return {
    apiVersion: "v1",
    kind: "ServiceAccount",
    metadata: objectMeta(context, context.deployment.metadata.name, "shared"),
    automountServiceAccountToken: false,
  };
}

/** Settings that pods read at their start. They are outside the templates, so that a changed setting replaces no pod. */
export function settingsMap(context: RenderContext): KubeObject {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: objectMeta(context, names.settings(context.deployment.metadata.name), "shared"),
    data: settingEntries(context.settings, context.deployment.spec),
  };
}

export function gatewayService(context: RenderContext): KubeObject {
  const { metadata, spec } = context.deployment;
  const { name } = metadata;
  const { front = selectorLabels(name, "gateway") } = context;
  // Ingresses and meshes read the protocol from it.
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

/** Pods that start without the operator ask every rank with an address, ready or not. */
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
 * Voluntary disruptions take one rank at a time, so that its experts move in between. The absolute number counts ranks in use, where a
 * percentage would count `replicas`.
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
