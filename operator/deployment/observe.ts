// Kubernetes objects -> the facts of core/snapshot.ts. Parses what it reads; decides nothing.
import { z } from "zod";
import { annotations, labels } from "../../crds/common.ts";
import type { KubeObject } from "../kube/kube.ts";
import type { GatewayFacts, PodFacts } from "./core/snapshot.ts";
import type { GatewayPod, LeavingReason } from "./core/world.ts";

/** Marks of ours on a pod that is to go. */
export const leavingAnnotation = `${labels.deployment.split("/")[0]}/leaving`;
export const leavingSinceAnnotation = `${leavingAnnotation}-since`;
/** A pod on a node we never saw may be on a node that has just joined. */
const unknownNodeMs = 30_000;
const quietWaiting = ["ContainerCreating", "PodInitializing"];

const state = z.object({
  waiting: z.object({ reason: z.string().default(""), message: z.string().default("") }).optional(),
  terminated: z.object({ reason: z.string().default(""), exitCode: z.number().default(0) }).optional(),
});
const podSchema = z.object({
  spec: z.object({ nodeName: z.string().optional() }).default({}),
  status: z
    .object({
      phase: z.string().default("Pending"),
      podIP: z.string().optional(),
      reason: z.string().default(""),
      message: z.string().default(""),
      conditions: z
        .array(z.object({ type: z.string(), status: z.string(), reason: z.string().default(""), message: z.string().default("") }))
        .default([]),
      containerStatuses: z
        .array(z.object({ name: z.string(), restartCount: z.number().default(0), state: state.default({}), lastState: state.default({}) }))
        .default([]),
    })
    .prefault({}),
});
type PodStatus = z.infer<typeof podSchema>["status"];

export interface NodeHealth {
  /** unknown: not in the cache. */
  readonly state: (node: string) => "answers" | "silent" | "unknown";
  readonly zone: (node: string) => string | undefined;
}

const zoneLabel = "topology.kubernetes.io/zone";

export function nodeHealth(nodes: readonly KubeObject[]): NodeHealth {
  const schema = z.object({
    status: z.object({ conditions: z.array(z.object({ type: z.string(), status: z.string() })).default([]) }).prefault({}),
  });
  const states = new Map(
    nodes.map((node) => {
      const parsed = schema.safeParse(node);
      const ready = parsed.success ? parsed.data.status.conditions.find((condition) => condition.type === "Ready") : undefined;
      // False is a kubelet that speaks; Unknown is one that does not.
      return [node.metadata.name, ready?.status === "Unknown" ? "silent" : "answers"] as const;
    }),
  );
  const zones = new Map(nodes.map((node) => [node.metadata.name, node.metadata.labels?.[zoneLabel]]));
  return { state: (node) => states.get(node) ?? "unknown", zone: (node) => zones.get(node) };
}

/** undefined for a pod without a readable rank: not one of ours. */
export function podFacts(pod: KubeObject, nodes: NodeHealth, now: number): PodFacts | undefined {
  const rank = Number(pod.metadata.labels?.[labels.rank] ?? "x");
  const parsed = podSchema.safeParse(pod);
  if (!Number.isInteger(rank) || rank < 0 || !parsed.success) return undefined;
  const { spec, status } = parsed.data;
  const createdMs = Date.parse(pod.metadata.creationTimestamp ?? "") || now;
  const node = spec.nodeName;
  const health = node ? nodes.state(node) : "answers";
  return {
    rank,
    name: pod.metadata.name,
    uid: pod.metadata.uid ?? "",
    ip: status.podIP,
    node,
    zone: node ? nodes.zone(node) : undefined,
    ready: status.conditions.some((condition) => condition.type === "Ready" && condition.status === "True"),
    terminating: pod.metadata.deletionTimestamp !== undefined,
    lost: health === "silent" || (health === "unknown" && now - createdMs > unknownNodeMs),
    terminal: status.phase === "Failed" || status.phase === "Succeeded",
    templateHash: pod.metadata.annotations?.[annotations.templateHash] ?? "",
    createdMs,
    leaving: leaving(pod),
    goneByMs: pod.metadata.deletionTimestamp === undefined ? undefined : Date.parse(pod.metadata.deletionTimestamp),
    problem: problem(status),
    restarts: status.containerStatuses.reduce((sum, container) => sum + container.restartCount, 0),
  };
}

function leaving(pod: KubeObject): PodFacts["leaving"] {
  const reason = pod.metadata.annotations?.[leavingAnnotation];
  if (reason !== "Shrink" && reason !== "Roll" && reason !== "Stop") return undefined;
  const sinceMs = Date.parse(pod.metadata.annotations?.[leavingSinceAnnotation] ?? "");
  return { reason: reason satisfies LeavingReason, sinceMs: Number.isFinite(sinceMs) ? sinceMs : 0 };
}

function problem(status: PodStatus): string {
  if (status.reason !== "") return text(status.reason, status.message);
  for (const container of status.containerStatuses) {
    const { waiting } = container.state;
    if (!waiting || quietWaiting.includes(waiting.reason)) continue;
    const last = container.lastState.terminated;
    return text(waiting.reason, last ? `last run ended with ${last.reason} (exit code ${last.exitCode})` : waiting.message);
  }
  const scheduled = status.conditions.find((condition) => condition.type === "PodScheduled" && condition.status === "False");
  return scheduled ? text(scheduled.reason, scheduled.message) : "";
}

const text = (reason: string, message: string): string => (message === "" ? reason : `${reason}: ${message}`).slice(0, 400);

export function gatewayPods(pods: readonly KubeObject[]): GatewayPod[] {
  return pods.flatMap((pod) => {
    const parsed = podSchema.safeParse(pod);
    const dead =
      !parsed.success || ["Failed", "Succeeded"].includes(parsed.data.status.phase) || pod.metadata.deletionTimestamp !== undefined;
    return dead ? [] : [{ name: pod.metadata.name, uid: pod.metadata.uid ?? "", ip: parsed.data.status.podIP }];
  });
}

const deploymentSchema = z.object({
  spec: z.object({ replicas: z.number().default(1) }).prefault({}),
  status: z
    .object({
      readyReplicas: z.number().default(0),
      updatedReplicas: z.number().default(0),
      conditions: z
        .array(z.object({ type: z.string(), status: z.string(), reason: z.string().default(""), message: z.string().default("") }))
        .default([]),
    })
    .prefault({}),
});

export function gatewayFacts(deployment: KubeObject | undefined): GatewayFacts {
  const parsed = deploymentSchema.safeParse(deployment ?? {});
  if (!parsed.success) return { wanted: 0, ready: 0, updated: 0, message: "" };
  const { spec, status } = parsed.data;
  const bad = status.conditions.find((condition) => condition.type === "ReplicaFailure" && condition.status === "True");
  return { wanted: spec.replicas, ready: status.readyReplicas, updated: status.updatedReplicas, message: bad?.message ?? "" };
}
