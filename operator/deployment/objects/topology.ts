// spec.scheduling.topology as affinity or spread of the worker pods. All rules are preferences: a required one would keep a lost rank away
// where its domain is full, so that only the pod template sets those. Pure.

import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { TopologyMode } from "../../../crds/names.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { type PodShape, workerKind } from "../../pods/pod-template.ts";
import { selectorLabels } from "./context.ts";

type Fields = Readonly<Record<string, unknown>>;

const hostname = "kubernetes.io/hostname";
const whenUnsatisfiable = "ScheduleAnyway";
/** The scheduler adds the weight per rank in the domain, so that any node in it beats all outside. */
const weights = { together: 100, apart: 10 } as const;

const selector = ({ metadata }: MoEDeployment) => ({ matchLabels: selectorLabels(metadata.name, "worker") });

function spread(deployment: MoEDeployment, topologyKey: string): Fields {
  return { maxSkew: 1, topologyKey, whenUnsatisfiable, labelSelector: selector(deployment) };
}

/** One rank per node where possible. Packed ranks express it by affinity, which can weigh both. */
export function spreadOverNodes(deployment: MoEDeployment): Fields[] {
  return deployment.spec.scheduling.topology?.mode === "Pack" ? [] : [spread(deployment, hostname)];
}

interface Placed {
  readonly pod: PodShape;
  readonly refusals: readonly Refusal[];
}

/** Appends the topology's rules to the template's; returns conflicts of the template. */
export function placed(pod: PodShape, deployment: MoEDeployment): Placed {
  const { topology } = deployment.spec.scheduling;
  if (!topology) return { pod, refusals: [] };
  const problems: string[] = [];
  const fields = modes[topology.mode]({ spec: pod.spec, deployment, key: topology.key, problems });
  const refusals = problems.map((message) => ({ reason: "FieldNotSupported", message }));
  return refusals.length > 0 ? { pod, refusals } : { pod: { ...pod, spec: { ...pod.spec, ...fields } }, refusals };
}

interface Placing {
  readonly spec: PodShape["spec"];
  readonly deployment: MoEDeployment;
  readonly key: string;
  readonly problems: string[];
}

const modes: Readonly<Record<TopologyMode, (placing: Placing) => Fields>> = {
  Pack: (placing) => {
    const { spec, key } = placing;
    const { podAffinity, podAntiAffinity, ...others } = objectOf(placing, spec.affinity, "affinity");
    const affinity = { ...others, podAffinity: preferring(placing, podAffinity, { name: "podAffinity", weight: weights.together, key }) };
    if (key === hostname) return { affinity: podAntiAffinity === undefined ? affinity : { ...affinity, podAntiAffinity } };
    const apart = { name: "podAntiAffinity", weight: weights.apart, key: hostname };
    return { affinity: { ...affinity, podAntiAffinity: preferring(placing, podAntiAffinity, apart) } };
  },
  Spread: (placing) => {
    const { spec, deployment, key, problems } = placing;
    const field = "topologySpreadConstraints";
    const there = listOf(placing, spec[field], field);
    // The API server accepts only one entry per key and mode.
    const same = there.some((one) => one.topologyKey === key && one.whenUnsatisfiable === whenUnsatisfiable);
    if (!same) return { [field]: [...there, spread(deployment, key)] };
    if (deployment.spec.podTemplate?.spec?.[field] !== undefined) {
      const remedy = "remove it there, or remove spec.scheduling.topology";
      problems.push(`${path(field)} has "${key}" with ${whenUnsatisfiable} already: ${remedy}`);
    }
    return {};
  },
};

const path = (field: string): string => `spec.${workerKind.field}.spec.${field}`;

function preferring(
  placing: Placing,
  affinity: unknown,
  { name, weight, key }: { readonly name: string; readonly weight: number; readonly key: string },
): Fields {
  const preferred = "preferredDuringSchedulingIgnoredDuringExecution";
  const { [preferred]: there, ...others } = objectOf(placing, affinity, `affinity.${name}`);
  const ours = { weight, podAffinityTerm: { topologyKey: key, labelSelector: selector(placing.deployment) } };
  return { ...others, [preferred]: [...listOf(placing, there, `affinity.${name}.${preferred}`), ours] };
}

const isObject = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);

/** Null is absent, as in Kubernetes; the API server checks nothing below the template's spec, so that anything else is refused here. */
function objectOf({ problems }: Placing, value: unknown, field: string): Fields {
  if (value === undefined || value === null) return {};
  if (!isObject(value)) problems.push(`${path(field)} must be an object`);
  return isObject(value) ? value : {};
}

function listOf({ problems }: Placing, value: unknown, field: string): readonly Fields[] {
  if (value === undefined || value === null) return [];
  const list = Array.isArray(value) && value.every(isObject) ? value : undefined;
  if (!list) problems.push(`${path(field)} must be a list of objects`);
  return list ?? [];
}
