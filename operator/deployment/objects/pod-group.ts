// The PodGroup of a deployment's ranks and the membership of their pods. It exists before the first pod and only while ranks are desired,
// so that it holds no quota. Pure.
import { annotations } from "../../../crds/common.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { defaultGang } from "../../../crds/names.ts";
import type { Gang } from "../../gangs/gang.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { names, objectMeta, type RenderContext } from "./context.ts";

export function podGroup(context: RenderContext, { scheduler, members }: Gang): KubeObject {
  const { deployment } = context;
  return {
    apiVersion: scheduler.resource.apiVersion,
    kind: scheduler.resource.kind,
    metadata: objectMeta(context, names.workers(deployment.metadata.name), "worker"),
    spec: scheduler.spec(members, deployment.spec.podTemplate),
  };
}

/** The chosen scheduler, on every pod of the template: another choice is a roll. */
export function gangAnnotation({ spec }: MoEDeployment): Record<string, string> {
  const { gang } = spec.scheduling;
  return gang === defaultGang ? {} : { [annotations.gang]: gang };
}

/** Not in the template's hash, since a scheduler that is installed later must not cause a roll. */
export function membership({ deployment, gang }: RenderContext): {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly schedulerName: string | undefined;
} {
  if (!gang) return { labels: {}, annotations: {}, schedulerName: undefined };
  const { member, schedulerName } = gang.scheduler;
  return { ...member(names.workers(deployment.metadata.name)), schedulerName };
}
