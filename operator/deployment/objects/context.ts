// What every rendered object needs: owner, labels, names and the operator's settings. Pure.

import { apiVersion, labels } from "../../../crds/common.ts";
import type { downloaderComponent } from "../../../crds/download.ts";
import type { MoEDeployment, MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { LogLevel, PullPolicy } from "../../../crds/names.ts";
import type { OwnNats } from "../../../crds/nats-access.ts";
import type { weightServerComponent } from "../../../crds/weight-server.ts";
import type { Gang } from "../../gangs/gang.ts";
import { makerLabels } from "../../kube/adoption.ts";
import type { ObjectMeta, OwnerReference } from "../../kube/kube.ts";

export interface Settings extends OwnNats {
  readonly namespace: string;
  /** core/runtime-image.ts decides what a deployment runs. */
  readonly runtimeImage: string;
  readonly pullPolicy: PullPolicy;
  readonly otlpEndpoint: string | undefined;
  /** Sampled fraction of traces; unset = all. */
  readonly traceRatio?: number | undefined;
  /** Undefined: deployments get no policies. */
  readonly networkPolicies: { readonly operatorNamespace: string } | undefined;
  readonly logLevel: LogLevel;
  /** Hub of hf:// models; undefined = the public one. */
  readonly hub: string | undefined;
}

export interface RenderContext {
  readonly deployment: MoEDeployment;
  readonly settings: Settings;
  /** Unset where each rank is scheduled alone. */
  readonly gang?: Gang | undefined;
  /** The Service's gateways; unset = this deployment's. */
  readonly front?: Readonly<Record<string, string>> | undefined;
  /** The weight server of ranks; without it they mount the model. */
  readonly weightServer?: WeightServerWish | undefined;
  /** The cluster has HTTPRoutes that we may manage. */
  readonly routable?: boolean;
  /** The number of gateways that it begins with, where the spec has none. */
  readonly firstGateways?: number | undefined;
}

export interface ModelOf {
  readonly model: MoEDeploymentSpec["model"];
  readonly expertCodec: MoEDeploymentSpec["runtime"]["expertCodec"];
}

export function ofModel(deployment: MoEDeployment, of: ModelOf | undefined): MoEDeployment {
  if (of === undefined) return deployment;
  const { spec } = deployment;
  return { ...deployment, spec: { ...spec, model: of.model, runtime: { ...spec.runtime, expertCodec: of.expertCodec } } };
}

export interface WeightServerWish {
  readonly replicas: 0 | 1;
  /** It is held to the node that has its claim; unset = any. */
  readonly node?: string | undefined;
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
