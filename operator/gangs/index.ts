// The list of gang schedulers, and the choice by what the cluster serves. Pure.

import type { PodTemplate } from "../../crds/moe-deployment.ts";
import type { GangChoice, GangName } from "../../crds/names.ts";
import type { Served } from "../kube/informers.ts";
import type { ObjectMeta, Resource } from "../kube/kube.ts";
import type { Refusal } from "../kube/refusal-text.ts";
import type { GangScheduler } from "./gang.ts";
import { coscheduling, volcano } from "./schedulers.ts";

/** The names are those of spec.scheduling.gang; Auto takes the first that exists. */
const schedulers = { Coscheduling: coscheduling, Volcano: volcano } as const satisfies Readonly<Record<GangName, GangScheduler>>;
export const gangSchedulers: readonly GangScheduler[] = Object.values(schedulers);

export function gangOf(pod: ObjectMeta): GangName | undefined {
  return gangSchedulers.find((scheduler) => scheduler.has(pod))?.name;
}

interface ChosenScheduler {
  /** Undefined without a gang scheduler. */
  readonly scheduler: GangScheduler | undefined;
  readonly refusals: readonly Refusal[];
}

interface GangSpec {
  readonly scheduling: { readonly gang: GangChoice };
  readonly podTemplate?: PodTemplate | undefined;
}

/** A requested scheduler that is missing is a refusal. */
export function chooseScheduler({ scheduling, podTemplate }: GangSpec, served: (resource: Resource) => Served): ChosenScheduler {
  const choice = scheduling.gang;
  if (choice === "None") return { scheduler: undefined, refusals: [] };
  const named = gangSchedulers.find(({ name }) => name === choice);
  const wanted = named ? [named] : gangSchedulers;
  const scheduler = wanted.find(({ resource }) => served(resource) === "served");
  if (scheduler) return { scheduler, refusals: taken(podTemplate, scheduler) };
  const missing = wanted.filter(({ resource }) => named !== undefined || served(resource) !== "absent");
  return { scheduler, refusals: missing.slice(0, 1).map(({ resource }) => refusal(choice, resource, served(resource))) };
}

function refusal(choice: string, { apiVersion }: Resource, state: Served): Refusal {
  const field = `spec.scheduling.gang: ${choice}`;
  const api = `PodGroups of ${apiVersion}`;
  const messages: Readonly<Record<Served, string>> = {
    served: "",
    absent: `the cluster has no ${api}: install their scheduler, which is then found within a minute, or set Auto or None`,
    forbidden: `the operator may not handle ${api}: set the chart's value rbac.podGroups to true, or the field to None`,
    unknown: `whether the cluster has ${api} is not known yet`,
  };
  return { reason: "GangUnavailable", message: `${field}: ${messages[state]}` };
}

/** A template that already names another group. */
function taken(podTemplate: PodTemplate | undefined, scheduler: GangScheduler): Refusal[] {
  const { labels, annotations } = scheduler.member("");
  const problems = (["labels", "annotations"] as const).flatMap((kind) =>
    Object.keys({ labels, annotations }[kind])
      .filter((key) => podTemplate?.metadata?.[kind]?.[key] !== undefined)
      .map((key) => `spec.podTemplate.metadata.${kind}: "${key}" is the operator's with spec.scheduling.gang; remove one of them`),
  );
  return problems.map((message) => ({ reason: "FieldNotSupported", message }));
}
