// Parses Kubernetes objects into the facts of core/snapshot.ts.

import { z } from "zod";
import { annotations, labels } from "../../../crds/common.ts";
import { planBounds } from "../../../crds/plan.ts";
import { heldByOthers, schedulingGated } from "../../../crds/pod-gates.ts";
import { workerProcess } from "../../../crds/process.ts";
import { type ProcessEnd, readProcessEnd } from "../../../crds/process-end.ts";
import { gangOf } from "../../gangs/index.ts";
import type { Informers } from "../../kube/informers.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { workerKind } from "../../pods/pod-template.ts";
import type { GatewayFacts, ObservedPod, PodFacts } from "../core/snapshot.ts";
import type { GatewayPod, LeavingReason, RebalanceView } from "../core/world.ts";
import { modelOfPod, rankModelOfPod } from "../objects/model-place.ts";
import { type ContainerStatus, condition, type PodSpec, type PodStatus, podSchema } from "./pod-schema.ts";

export const leavingAnnotation = `${labels.deployment.split("/")[0]}/leaving`;
export const leavingSinceAnnotation = `${leavingAnnotation}-since`;
/** A node that is still not in the cache this long after a binding counts as missing. */
const unknownNodeMs = 30_000;
/** A container in creation for longer lacks something. */
const creatingMs = 60_000;
/** A pod without any condition counts as ignored by its scheduler after this. */
const unheardMs = 120_000;
/** The kubelet's word. */
const crashing = "CrashLoopBackOff";
const quietWaiting = ["ContainerCreating", "PodInitializing"];

export interface NodeHealth {
  readonly state: (node: string) => "answers" | "silent" | "unknown";
  readonly zone: (node: string) => string | undefined;
  readonly rack: (node: string) => string | undefined;
  readonly taints: (node: string) => readonly Taint[];
}

/** Taints by which a node says that pods are to leave it. */
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

/** An operator that may not read nodes counts none as silent. */
const unseenNodes: NodeHealth = { state: () => "answers", zone: () => undefined, rack: () => undefined, taints: () => [] };

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

export const nodeSchema = z.object({
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
  // Unknown means that the kubelet is silent.
  const state = ready?.status === "Unknown" ? "silent" : "answers";
  return { state, zone: node.metadata.labels?.[zoneLabel], taints: [...cordon, ...leaving] };
});

function onceEach<T extends object>(read: (object: KubeObject) => T): (object: KubeObject) => T {
  const known = new WeakMap<KubeObject, T>();
  return (object) => {
    const found = known.get(object) ?? read(object);
    known.set(object, found);
    return found;
  };
}

const parsedPod = onceEach((pod) => podSchema.safeParse(pod));

/** Undefined for a pod without a readable rank. */
export function podFacts(pod: KubeObject, nodes: NodeHealth, now: number): ObservedPod | undefined {
  const rank = rankOf(pod.metadata.labels?.[labels.rank]);
  const parsed = parsedPod(pod);
  if (rank === undefined || !parsed.success) return undefined;
  const { spec, status } = parsed.data;
  const createdMs = Date.parse(pod.metadata.creationTimestamp ?? "") || now;
  const node = spec.nodeName;
  const readiness = status.conditions.find((condition) => condition.type === "Ready");
  const ready = readiness?.status === "True";
  const container = spec.containers.find(({ name }) => name === workerKind.container);
  const set = ({ variable }: { readonly variable: string }) => container?.env.findLast(({ name }) => name === variable)?.value;
  return {
    rank,
    name: pod.metadata.name,
    uid: pod.metadata.uid ?? "",
    ip: status.podIP,
    node,
    zone: node ? nodes.zone(node) : undefined,
    rack: node ? nodes.rack(node) : undefined,
    ready,
    unreadySinceMs: ready ? undefined : notBefore(createdMs, readiness?.lastTransitionTime),
    restarts: Math.max(0, ...status.containerStatuses.map(({ restartCount }) => restartCount)),
    terminating: pod.metadata.deletionTimestamp !== undefined,
    silent: node !== undefined && isSilent(pod, node, nodes, now),
    terminal: isTerminal(status),
    gates: spec.schedulingGates,
    model: rankModelOfPod(pod),
    gang: gangOf(pod.metadata),
    templateHash: pod.metadata.annotations?.[annotations.templateHash] ?? "",
    image: container?.image ?? "",
    loadEveryMs: workerProcess.telemetryWindowMs.schema.safeParse(set(workerProcess.telemetryWindowMs)).data,
    oversubscription: workerProcess.oversubscription.schema.safeParse(set(workerProcess.oversubscription)).data,
    createdMs,
    leaving: leaving(pod),
    mustGo: mustGo(spec, status, nodes),
    goneInMs: graceMs(pod),
    problem: problem(pod, status, now) || unheard(pod, parsed.data, now),
    end: ready ? undefined : endOf(status),
  };
}

/** The clock of a node may be behind: nothing happens to a pod before it exists. */
const notBefore = (createdMs: number, time: string | undefined): number => Math.max(createdMs, Date.parse(time ?? "") || 0);

/** Kubernetes' default. */
const graceSeconds = 30;
const graceMs = ({ metadata: { deletionTimestamp, deletionGracePeriodSeconds = graceSeconds } }: KubeObject): number | undefined =>
  deletionTimestamp === undefined ? undefined : deletionGracePeriodSeconds * 1000;

/** Others can write labels: a rank that no world can have is none. */
function rankOf(label: string | undefined): number | undefined {
  const rank = /^\d{1,4}$/.test(label ?? "") ? Number(label) : planBounds.ranks;
  return rank < planBounds.ranks ? rank : undefined;
}

/** Whether and where a pod runs, what keeps it from running, and its exit message. */
export function podState(
  pod: KubeObject,
  now: number,
): {
  readonly ip: string | undefined;
  readonly running: boolean;
  readonly ready: boolean;
  readonly problem: string;
  readonly end: ProcessEnd | undefined;
  readonly ended: string | undefined;
} {
  const { status } = parsedPod(pod).data ?? {};
  if (!status) return { ip: undefined, running: false, ready: false, problem: "", end: undefined, ended: undefined };
  const over = isTerminal(status);
  const last = status.containerStatuses.flatMap(({ state: { terminated } }) => terminated ?? [])[0];
  const said = [last?.message, last?.reason, text(status.reason, status.message), status.phase].find(
    (one) => one !== undefined && one !== "",
  );
  const running = status.phase === "Running" && pod.metadata.deletionTimestamp === undefined;
  const ready = running && status.conditions.some(({ type, status: holds }) => type === "Ready" && holds === "True");
  return {
    ip: status.podIP,
    running,
    ready,
    problem: over ? "" : problem(pod, status, now),
    end: ready ? undefined : endOf(status),
    ended: over ? said : undefined,
  };
}

export function gatewayModels(pods: readonly KubeObject[], now: number): readonly (string | undefined)[] {
  const due = ({ metadata: { deletionTimestamp } }: KubeObject) => deletionTimestamp !== undefined && Date.parse(deletionTimestamp) < now;
  return pods.filter((pod) => !hasEnded(pod) && !due(pod)).map(modelOfPod);
}

/** Its node does not answer, or is gone. */
export function isSilent(pod: KubeObject, node: string, nodes: NodeHealth, now: number): boolean {
  const health = nodes.state(node);
  const { data } = parsedPod(pod);
  return health === "silent" || (health === "unknown" && data !== undefined && now - boundMs(pod, data.status, now) > unknownNodeMs);
}

function boundMs(pod: KubeObject, status: PodStatus, now: number): number {
  const scheduled = status.conditions.find((one) => one.type === "PodScheduled" && one.status === "True");
  return notBefore(Date.parse(pod.metadata.creationTimestamp ?? "") || 0, scheduled?.lastTransitionTime) || now;
}

/** Why the pod must leave: a disruption, or a taint that it does not tolerate. */
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
    const crash = crashOf(container, status);
    if (waiting && !quietWaiting.includes(waiting.reason)) return text(waiting.reason, crash ?? waiting.message);
    if (crash !== undefined) return text(crashing, crash);
  }
  const scheduled = status.conditions.find((condition) => isHeard(condition) && condition.status === "False");
  return scheduled ? text(scheduled.reason, scheduled.message) : heldByOthers(parsedPod(pod).data?.spec.schedulingGates ?? []);
}

/** The API server's word on gates is no scheduler's. */
const isHeard = ({ type, reason }: PodStatus["conditions"][number]): boolean => type === "PodScheduled" && reason !== schedulingGated;

/** Its last run, until it is ready again: between two runs it waits, starts and runs, and nothing has changed. */
function endedRun({ ready, state, lastState }: ContainerStatus, { conditions }: PodStatus) {
  const unreadySince = conditions.find(({ type, status }) => type === "Ready" && status === "False")?.lastTransitionTime;
  const wasReady = Date.parse(unreadySince ?? "") > Date.parse(state.running?.startedAt ?? "");
  return state.terminated ?? (ready || wasReady ? undefined : lastState.terminated);
}

function crashOf(container: ContainerStatus, status: PodStatus): string | undefined {
  const last = endedRun(container, status);
  if (last === undefined || (last.exitCode === 0 && container.restartCount === 0)) return undefined;
  const end = readProcessEnd(last.message);
  return end ? `${end.code}: ${end.message}` : `last run ended with ${last.reason} (exit code ${last.exitCode})`;
}

const endOf = (status: PodStatus): ProcessEnd | undefined =>
  status.containerStatuses.flatMap((one) => readProcessEnd(endedRun(one, status)?.message ?? "") ?? [])[0];

/** The message for a pod that no scheduler has reported on. */
function unheard({ metadata }: KubeObject, { spec, status }: z.infer<typeof podSchema>, now: number): string {
  const waits = now - (Date.parse(metadata.creationTimestamp ?? "") || now);
  if (spec.nodeName !== undefined || spec.schedulingGates.length > 0 || waits < unheardMs || status.conditions.some(isHeard)) return "";
  const seconds = (Math.floor(waits / unheardMs) * unheardMs) / 1000;
  return `Unschedulable: no scheduler named "${spec.schedulerName}" has looked at the pod for ${seconds} s (podTemplate.spec.schedulerName)`;
}

/** The age in the message goes in steps, so that the text seldom changes. */
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

/** Undefined for a pod that has ended or is terminating. */
function livingStatus(pod: KubeObject): PodStatus | undefined {
  const parsed = parsedPod(pod);
  if (!parsed.success || pod.metadata.deletionTimestamp !== undefined) return undefined;
  return isTerminal(parsed.data.status) ? undefined : parsed.data.status;
}

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
const atZero = "ScalingDisabled";

/** Why its ReplicaSet gets no pod, in the API server's words; empty when nothing is refused. */
export function podsRefused(deployment: KubeObject | undefined): string {
  const conditions = deploymentSchema.safeParse(deployment ?? {}).data?.status.conditions ?? [];
  return conditions.find((one) => one.type === "ReplicaFailure" && one.status === "True")?.message ?? "";
}

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
  const refused = podsRefused(objects.deployment);
  const stuck = conditions.find((one) => one.type === "Progressing" && one.status === "False");
  return {
    ready: readyReplicas,
    replicas,
    message: refused || gatewayProblem(pods, now) || (stuck ? text(stuck.reason, stuck.message) : ""),
    createError: refused,
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

/** One silent node has failed; with two or more the network to them may have. */
const heldFromNodes = 2;

export function withLosses(pods: readonly ObservedPod[], view: RebalanceView | undefined, warmingUp: boolean): PodFacts[] {
  const held = massSilence(pods);
  return pods.map((pod): PodFacts => {
    if (!pod.silent) return { ...pod, lost: false };
    const member = view?.members.find((one) => one.podUid === pod.uid);
    const kept = member?.connected ? "its rank does" : held;
    // A new leader may not have heard of the rank yet.
    const untried = warmingUp && (member?.bootId ?? "") === "";
    if (kept === undefined && !untried) return { ...pod, lost: true };
    return { ...pod, lost: false, problem: pod.problem || `node ${pod.node} does not answer${kept === undefined ? "" : `; ${kept}`}` };
  });
}

/** Why silence deletes nothing: when most used nodes are silent, something else has failed. */
function massSilence(pods: readonly ObservedPod[]): string | undefined {
  const nodes = new Set(pods.flatMap((pod) => (pod.terminal ? [] : (pod.node ?? []))));
  const silent = new Set(pods.flatMap((pod) => (pod.silent && !pod.terminal ? (pod.node ?? []) : [])));
  if (silent.size < heldFromNodes || silent.size * 2 <= nodes.size) return undefined;
  return `nor do ${silent.size} of the ${nodes.size} nodes in use: no pod is deleted for that while they are more than half`;
}
