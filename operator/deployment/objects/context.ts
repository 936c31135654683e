// The context that every rendered object shares: owner, labels, names, and the settings of this operator. Pure.

import { apiVersion, labels } from "../../../crds/common.ts";
import type { downloaderComponent } from "../../../crds/download.ts";
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { LogLevel, PullPolicy } from "../../../crds/names.ts";
import type { weightServerComponent } from "../../../crds/weight-server.ts";
import type { Gang } from "../../gangs/gang.ts";
import { makerLabels } from "../../kube/adoption.ts";
import type { ObjectMeta, OwnerReference } from "../../kube/kube.ts";

export interface Settings {
  /** The operator's own namespace, which holds the CAs of deployments. */
  readonly namespace: string;
  /** The image that this operator comes with. What a deployment runs may be another: core/runtime-image.ts. */
  readonly runtimeImage: string;
  readonly pullPolicy: PullPolicy;
  /** NATS of deployments that name none. */
  readonly natsUrl: string | undefined;
  /** The folder with the credentials of that server; undefined where it wants none. */
  readonly natsCreds: string | undefined;
  readonly otlpEndpoint: string | undefined;
  /** Share of traces that gateways keep; all where it is not given. */
  readonly traceRatio?: number | undefined;
  /** Where the operator runs, whose pods the policies let in; undefined: deployments get no network policies. */
  readonly networkPolicies: { readonly operatorNamespace: string } | undefined;
  readonly logLevel: LogLevel;
  /** The hub of models that name hf://; the public one where it is undefined. */
  readonly hub: string | undefined;
}

export interface RenderContext {
  readonly deployment: MoEDeployment;
  readonly settings: Settings;
  /** Who starts ranks together; without it each finds room alone. */
  readonly gang?: Gang | undefined;
  /** The gateways that the Service leads to; this deployment's where it is not given. */
  readonly front?: Readonly<Record<string, string>> | undefined;
  /** The weight server that ranks have the model from; without one they mount it. */
  readonly weightServer?: WeightServerWish | undefined;
  /** True where the cluster has HTTPRoutes that we may handle. */
  readonly routable?: boolean;
}

/** A model in the form in which ranks have it. */
export interface ModelOf {
  readonly model: MoEDeploymentSpec["model"];
  readonly expertCodec: MoEDeploymentSpec["runtime"]["expertCodec"];
}

/** The deployment with that model instead of its own. */
export function ofModel(deployment: MoEDeployment, of: ModelOf | undefined): MoEDeployment {
  if (of === undefined) return deployment;
  const { spec } = deployment;
  return { ...deployment, spec: { ...spec, model: of.model, runtime: { ...spec.runtime, expertCodec: of.expertCodec } } };
}

export interface WeightServerWish {
  /** None while a download has the claim, or the deployment is suspended. */
  readonly replicas: 0 | 1;
  /** The model that it is to have; that of the spec where it is not given. */
  readonly keeps?: ModelOf | undefined;
}

export type Component = "worker" | "gateway" | typeof downloaderComponent | typeof weightServerComponent | "tls" | "shared";

export const names = {
  workers: (name: string) => `${name}-workers`,
  gateway: (name: string) => `${name}-gateway`,
  settings: (name: string) => `${name}-settings`,
  downloader: (name: string) => `${name}-downloader`,
  weightServer: (name: string) => `${name}-weight-server`,
} as const;

export function objectLabels(name: string, component: Component): Record<string, string> {
  return { ...makerLabels, [labels.deployment]: name, [labels.component]: component };
}

/** Selectors use deployment and component only. */
export function selectorLabels(name: string, component: Component): Record<string, string> {
  return { [labels.deployment]: name, [labels.component]: component };
}

export function ownerOf(deployment: MoEDeployment): OwnerReference {
  const { name, uid } = deployment.metadata;
  return { apiVersion, kind: "MoEDeployment", name, uid, controller: true, blockOwnerDeletion: false };
}

export function objectMeta(context: RenderContext, name: string, component: Component): ObjectMeta {
  const { deployment } = context;
  return {
    name,
    namespace: deployment.metadata.namespace,
    labels: objectLabels(deployment.metadata.name, component),
    ownerReferences: [ownerOf(deployment)],
  };
}
