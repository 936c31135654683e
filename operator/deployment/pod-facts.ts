// Kubernetes objects -> the facts of core/snapshot.ts. Parses what it reads; decides nothing.
import { z } from "zod";
import { annotations, labels } from "../../crds/common.ts";
import { planBounds } from "../../crds/plan.ts";
import { gangOf } from "../gangs/index.ts";
import type { Informers } from "../kube/informers.ts";
import type { KubeObject } from "../kube/kube.ts";
import { workerKind } from "../pods/pod-template.ts";
import type { GatewayFacts, ObservedPod } from "./core/snapshot.ts";
import type { GatewayPod, LeavingReason } from "./core/world.ts";
import { modelOfPod, rankModelOfPod } from "./objects/model-place.ts";

/** Marks of ours on a pod that is to go. */
export const leavingAnnotation = `${labels.deployment.split("/")[0]}/leaving`;
export const leavingSinceAnnotation = `${leavingAnnotation}-since`;
/** A node we never saw may have just joined: this long after the pod was bound to it, it is none. */
const unknownNodeMs = 30_000;
/** Containers are made in seconds; after this long something that they need is missing. */
const creatingMs = 60_000;
/** A scheduler says at once why a pod has no node, and one that starts pods together after a minute: after this there is none. */
const unheardMs = 120_000;
const quietWaiting = ["ContainerCreating", "PodInitializing"];

const state = z.object({
  waiting: z.object({ reason: z.string().default(""), message: z.string().default("") }).optional(),
  terminated: z.object({ reason: z.string().default(""), exitCode: z.number().default(0), message: z.string().default("") }).optional(),
});
const condition = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().default(""),
  message: z.string().default(""),
  // Null where whoever wrote the condition gave none: a pod is not to be overlooked for it.
  lastTransitionTime: z
    .string()
    .nullish()
    .transform((time) => time ?? ""),
});
const podSchema = z.object({
  spec: z
    .object({
      nodeName: z.string().optional(),
      schedulerName: z.string().default("default-scheduler"),
      containers: z.array(z.object({ name: z.string(), image: z.string().default("") })).default([]),
      tolerations: z.array(z.object({ key: z.string().default(""), effect: z.string().default("") })).default([]),
    })
    .prefault({}),
  status: z
    .object({
      phase: z.string().default("Pending"),
      podIP: z.string().optional(),
      reason: z.string().default(""),
      message: z.string().default(""),
      conditions: z.array(condition).default([]),
      containerStatuses: z
        .array(z.object({ state: state.default({}), lastState: state.default({}), restartCount: z.number().default(0) }))
        .default([]),
    })
    .prefault({}),
});
type PodStatus = z.infer<typeof podSchema>["status"];
type PodSpec = z.infer<typeof podSchema>["spec"];

export interface NodeHealth {
  /** State of a node; unknown when it is not in the cache. */
  readonly state: (node: string) => "answers" | "silent" | "unknown";
  readonly zone: (node: string) => string | undefined;
  /** Value of the label that the deployment's topology names. */
  readonly rack: (node: string) => string | undefined;
  /** Marks of a node that is to be left; empty for one that is not known. */
  readonly taints: (node: string) => readonly Taint[];
}

/** Taints by which a node says that its pods are to leave it. Others keep pods away or end them, and say nothing of planned leaving. */
const leavingTaints: Readonly<Record<string, string>> = {
  "node.kubernetes.io/unschedulable": "is cordoned",
  ToBeDeletedByClusterAutoscaler: "is to be removed by the cluster autoscaler",
  "karpenter.sh/disrupted": "is to be removed by Karpenter",
  "node.kubernetes.io/out-of-service": "is out of service",
  "node.cloudprovider.kubernetes.io/shutdown": "is shut down",
};

interface Taint {
  readonly key: string;
  readonly effect: string;
}

const zoneLabel = "topology.kubernetes.io/zone";

/** Nodes that the operator may not read: none counts as silent, and a pod leaves when it is evicted. */
const unseenNodes: NodeHealth = { state: () => "answers", zone: () => undefined, rack: () => undefined, taints: () => [] };

/** The nodes as the cache has them, or as good as none where they may not be read. `rackLabel`: by which their racks are told apart. */
export function nodesSeen(informers: Pick<Informers, "get" | "seesNodes">, rackLabel?: string): NodeHealth {
  return informers.seesNodes ? healthOf((name) => informers.get("nodes", { namespace: "", name }), rackLabel) : unseenNodes;
}

export function nodeHealth(nodes: readonly KubeObject[], rackLabel?: string): NodeHealth {
  const byName = new Map(nodes.map((node) => [node.metadata.name, node]));
  return healthOf((name) => byName.get(name), rackLabel);
}

function healthOf(find: (name: string) => KubeObject | undefined, rackLabel: string | undefined): NodeHealth {
  const of = (name: string) => {
    const node = find(name);
    return node && nodeFacts(node);
  };
  return {
    state: (name) => of(name)?.state ?? "unknown",
    zone: (name) => of(name)?.zone,
    rack: (name) => (rackLabel === undefined ? undefined : find(name)?.metadata.labels?.[rackLabel]),
    taints: (name) => of(name)?.taints ?? [],
  };
}

const nodeSchema = z.object({
  spec: z
    .object({
      unschedulable: z.boolean().default(false),
      taints: z.array(z.object({ key: z.string(), effect: z.string().default("") })).default([]),
    })
    .prefault({}),
  status: z.object({ conditions: z.array(z.object({ type: z.string(), status: z.string() })).default([]) }).prefault({}),
});

interface NodeFacts {
  readonly state: "answers" | "silent";
  readonly zone: string | undefined;
  readonly taints: readonly Taint[];
}

const nodeFacts = onceEach((node: KubeObject): NodeFacts => {
  const { spec, status } = nodeSchema.safeParse(node).data ?? {};
  const ready = status?.conditions.find((condition) => condition.type === "Ready");
  const cordon = spec?.unschedulable ? [{ key: "node.kubernetes.io/unschedulable", effect: "NoSchedule" }] : [];
  const leaving = (spec?.taints ?? []).filter(({ key, effect }) => key in leavingTaints && effect !== "PreferNoSchedule");
  // False is a kubelet that speaks; Unknown is one that does not.
  const state = ready?.status === "Unknown" ? "silent" : "answers";
  return { state, zone: node.metadata.labels?.[zoneLabel], taints: [...cordon, ...leaving] };
});

/** Reads each object once: copies are replaced when they change, and never written to. */
function onceEach<T extends object>(read: (object: KubeObject) => T): (object: KubeObject) => T {
  const known = new WeakMap<KubeObject, T>();
  return (object) => {
    const found = known.get(object) ?? read(object);
    known.set(object, found);
    return found;
  };
}

const parsedPod = onceEach((pod) => podSchema.safeParse(pod));

/** The facts of a pod; undefined for one without a readable rank: not one of ours. */
export function podFacts(pod: KubeObject, nodes: NodeHealth, now: number): ObservedPod | undefined {
  const rank = rankOf(pod.metadata.labels?.[labels.rank]);
  const parsed = parsedPod(pod);
  if (rank === undefined || !parsed.success) return undefined;
  const { spec, status } = parsed.data;
  const createdMs = Date.parse(pod.metadata.creationTimestamp ?? "") || now;
  const node = spec.nodeName;
  const health = node ? nodes.state(node) : "answers";
  const readiness = status.conditions.find((condition) => condition.type === "Ready");
  const ready = readiness?.status === "True";
  return {
    rank,
    name: pod.metadata.name,
    uid: pod.metadata.uid ?? "",
    ip: status.podIP,
    node,
    zone: node ? nodes.zone(node) : undefined,
    rack: node ? nodes.rack(node) : undefined,
    ready,
    unreadySinceMs: ready ? undefined : Date.parse(readiness?.lastTransitionTime ?? "") || createdMs,
    restarts: Math.max(0, ...status.containerStatuses.map(({ restartCount }) => restartCount)),
    terminating: pod.metadata.deletionTimestamp !== undefined,
    silent: health === "silent" || (health === "unknown" && now - boundMs(pod, status, now) > unknownNodeMs),
    terminal: isTerminal(status),
    model: rankModelOfPod(pod),
    gang: gangOf(pod.metadata),
    templateHash: pod.metadata.annotations?.[annotations.templateHash] ?? "",
    image: spec.containers.find(({ name }) => name === workerKind.container)?.image ?? "",
    createdMs,
    leaving: leaving(pod),
    mustGo: mustGo(spec, status, nodes),
    goneByMs: pod.metadata.deletionTimestamp === undefined ? undefined : Date.parse(pod.metadata.deletionTimestamp),
    problem: problem(pod, status, now) || unheard(pod, parsed.data, now),
  };
}

/** A label can be written by others: what is no number of a rank, or one that no world has, is none. */
function rankOf(label: string | undefined): number | undefined {
  const rank = /^\d{1,4}$/.test(label ?? "") ? Number(label) : planBounds.ranks;
  return rank < planBounds.ranks ? rank : undefined;
}

/** What is seen of any pod of ours: whether it runs and where, what keeps it from it, and what it said at its end. */
export function podSight(
  pod: KubeObject,
  now: number,
): {
  readonly ip: string | undefined;
  readonly running: boolean;
  readonly ready: boolean;
  readonly problem: string;
  readonly ended: string | undefined;
} {
  const { status } = parsedPod(pod).data ?? {};
  if (!status) return { ip: undefined, running: false, ready: false, problem: "", ended: undefined };
  const over = isTerminal(status);
  const last = status.containerStatuses.flatMap(({ state: { terminated } }) => terminated ?? [])[0];
  const said = [last?.message, last?.reason, text(status.reason, status.message), status.phase].find(
    (one) => one !== undefined && one !== "",
  );
  const running = status.phase === "Running" && pod.metadata.deletionTimestamp === undefined;
  const ready = running && status.conditions.some(({ type, status: holds }) => type === "Ready" && holds === "True");
  return { ip: status.podIP, running, ready, problem: over ? "" : problem(pod, status, now), ended: over ? said : undefined };
}

/** A gateway that may still answer, by what it has its model from; those that should be gone by now are not waited for. */
export function gatewayModels(pods: readonly KubeObject[], now: number): readonly (string | undefined)[] {
  const due = ({ metadata: { deletionTimestamp } }: KubeObject) => deletionTimestamp !== undefined && Date.parse(deletionTimestamp) < now;
  return pods.filter((pod) => !hasEnded(pod) && !due(pod)).map(modelOfPod);
}

/** The time at which the scheduler gave the pod its node. */
function boundMs(pod: KubeObject, status: PodStatus, now: number): number {
  const scheduled = status.conditions.find((one) => one.type === "PodScheduled" && one.status === "True");
  return Date.parse(scheduled?.lastTransitionTime ?? "") || Date.parse(pod.metadata.creationTimestamp ?? "") || now;
}

/** Why the pod cannot stay: somebody disrupts it, or its node is to be left and the pod does not tolerate that. */
function mustGo({ nodeName, tolerations }: PodSpec, { conditions }: PodStatus, nodes: NodeHealth): string {
  const disrupted = conditions.find((one) => one.type === "DisruptionTarget" && one.status === "True");
  if (disrupted) return text(disrupted.reason, disrupted.message);
  if (nodeName === undefined) return "";
  const tolerates = (taint: Taint) =>
    tolerations.some(({ key, effect }) => (key === "" || key === taint.key) && (effect === "" || effect === taint.effect));
  const taint = nodes.taints(nodeName).find((one) => !tolerates(one));
  return taint ? `node ${nodeName} ${leavingTaints[taint.key]}` : "";
}

function leaving(pod: KubeObject): ObservedPod["leaving"] {
  const reason = pod.metadata.annotations?.[leavingAnnotation];
  if (reason !== "Shrink" && reason !== "Roll" && reason !== "Evict" && reason !== "Stop") return undefined;
  const sinceMs = Date.parse(pod.metadata.annotations?.[leavingSinceAnnotation] ?? "");
  return { reason: reason satisfies LeavingReason, sinceMs: Number.isFinite(sinceMs) ? sinceMs : 0 };
}

function problem(pod: KubeObject, status: PodStatus, now: number): string {
  if (status.reason !== "") return text(status.reason, status.message);
  for (const container of status.containerStatuses) {
    const { waiting } = container.state;
    const slow = waiting?.reason === "ContainerCreating" ? creating(pod, now - boundMs(pod, status, now)) : "";
    if (slow !== "") return slow;
    if (!waiting || quietWaiting.includes(waiting.reason)) continue;
    const last = container.lastState.terminated;
    return text(waiting.reason, last ? `last run ended with ${last.reason} (exit code ${last.exitCode})` : waiting.message);
  }
  const scheduled = status.conditions.find((condition) => condition.type === "PodScheduled" && condition.status === "False");
  return scheduled ? text(scheduled.reason, scheduled.message) : "";
}

/** The text on a pod that no scheduler has said a word about: one of that name does not run, or does not know the pod's group. */
function unheard({ metadata }: KubeObject, { spec, status }: z.infer<typeof podSchema>, now: number): string {
  const waits = now - (Date.parse(metadata.creationTimestamp ?? "") || now);
  if (spec.nodeName !== undefined || waits < unheardMs || status.conditions.some(({ type }) => type === "PodScheduled")) return "";
  const seconds = (Math.floor(waits / unheardMs) * unheardMs) / 1000;
  return `Unschedulable: no scheduler named "${spec.schedulerName}" has looked at the pod for ${seconds} s (podTemplate.spec.schedulerName)`;
}

/** The text on a pod that is slow to be created; its age goes in whole steps, so that the text does not change with every look. */
function creating({ metadata }: KubeObject, ms: number): string {
  if (ms < creatingMs) return "";
  const seconds = (Math.floor(ms / creatingMs) * creatingMs) / 1000;
  return `ContainerCreating for ${seconds} s: kubectl describe pod ${metadata.name} (a volume or Secret is missing)`;
}

const text = (reason: string, message: string): string => (message === "" ? reason : `${reason}: ${message}`).slice(0, 400);

export function gatewayPods(pods: readonly KubeObject[]): GatewayPod[] {
  return pods.flatMap((pod) => {
    const status = livingStatus(pod);
    return status ? [{ name: pod.metadata.name, uid: pod.metadata.uid ?? "", ip: status.podIP }] : [];
  });
}

/** The status of a pod; undefined for one that has ended or is to end. */
function livingStatus(pod: KubeObject): PodStatus | undefined {
  const parsed = parsedPod(pod);
  if (!parsed.success || pod.metadata.deletionTimestamp !== undefined) return undefined;
  return isTerminal(parsed.data.status) ? undefined : parsed.data.status;
}

/** True of a pod that has run for the last time and is still there. */
export const hasEnded = (pod: KubeObject): boolean => {
  const parsed = parsedPod(pod);
  return parsed.success && isTerminal(parsed.data.status);
};

const isTerminal = (status: PodStatus): boolean => status.phase === "Failed" || status.phase === "Succeeded";

const deploymentSchema = z.object({
  spec: z.object({ replicas: z.number().optional() }).prefault({}),
  status: z.object({ readyReplicas: z.number().default(0), conditions: z.array(condition).default([]) }).prefault({}),
});

const autoscalerSchema = z.object({ status: z.object({ conditions: z.array(condition).default([]) }).prefault({}) });
/** An autoscaler stands still at zero, where nobody wants it to do anything. */
const atZero = "ScalingDisabled";

/** `objects` are as the cache has them; undefined: not there. */
export function gatewayFacts(
  objects: { readonly deployment: KubeObject | undefined; readonly autoscaler: KubeObject | undefined },
  pods: readonly KubeObject[],
  now: number,
): GatewayFacts {
  const parsed = deploymentSchema.safeParse(objects.deployment ?? {});
  const unscaled = standstill(objects.autoscaler);
  if (!parsed.success) return { ready: 0, replicas: undefined, message: "", createError: "", unscaled };
  const { replicas } = parsed.data.spec;
  const { readyReplicas, conditions } = parsed.data.status;
  const failure = conditions.find((one) => one.type === "ReplicaFailure" && one.status === "True");
  const stuck = conditions.find((one) => one.type === "Progressing" && one.status === "False");
  return {
    ready: readyReplicas,
    replicas,
    message: failure?.message || gatewayProblem(pods, now) || (stuck ? text(stuck.reason, stuck.message) : ""),
    createError: failure?.message ?? "",
    unscaled,
  };
}

function standstill(autoscaler: KubeObject | undefined): string {
  const parsed = autoscalerSchema.safeParse(autoscaler ?? {});
  const inactive = parsed.data?.status.conditions.find((one) => one.type === "ScalingActive" && one.status === "False");
  return inactive && inactive.reason !== atZero ? text(inactive.reason, inactive.message) : "";
}

function gatewayProblem(pods: readonly KubeObject[], now: number): string {
  for (const pod of pods) {
    const status = livingStatus(pod);
    const found = status ? problem(pod, status, now) : "";
    if (found !== "") return `${pod.metadata.name}: ${found}`;
  }
  return "";
}
