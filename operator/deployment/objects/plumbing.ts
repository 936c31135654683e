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
  const { name } = context.deployment.metadata;
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: objectMeta(context, name, "gateway"),
    spec: {
      selector: selectorLabels(name, "gateway"),
      ports: [{ name: "http", port: context.deployment.spec.service.port, targetPort: "http", protocol: "TCP" }],
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

/** Voluntary disruptions take one rank at a time, so that its experts can be loaded elsewhere in between. */
export function workersBudget(context: RenderContext): KubeObject {
  return budget(context, "worker", names.workers(context.deployment.metadata.name));
}

export function gatewayBudget(context: RenderContext): KubeObject {
  return budget(context, "gateway", names.gateway(context.deployment.metadata.name));
}

function budget(context: RenderContext, component: "worker" | "gateway", name: string): KubeObject {
  return {
    apiVersion: "policy/v1",
    kind: "PodDisruptionBudget",
    metadata: objectMeta(context, name, component),
    spec: { maxUnavailable: 1, selector: { matchLabels: selectorLabels(context.deployment.metadata.name, component) } },
  };
}
