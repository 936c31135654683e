// Parses a pod: owner, state, and how its containers ended. Pure.
import { z } from "zod";
import { labels } from "../../crds/common.ts";
import { gatesSchema, schedulingGated } from "../../crds/pod-gates.ts";
import type { KubeObject } from "../kube/kube.ts";

export type PodFacts = NonNullable<ReturnType<typeof podFactsOf>>;
export type ContainerFacts = PodFacts["containers"][number];

const end = z.object({
  reason: z.string().default(""),
  exitCode: z.number().default(0),
  message: z.string().default(""),
  finishedAt: z.string().optional(),
});
const state = z
  .object({
    waiting: z.object({ reason: z.string().default(""), message: z.string().default("") }).optional(),
    terminated: end.optional(),
  })
  .prefault({});
const containerStatus = z.object({
  name: z.string(),
  restartCount: z.number().default(0),
  state,
  lastState: state,
});
const container = z.object({
  name: z.string(),
  image: z.string().default(""),
  resources: z.object({ limits: z.record(z.string(), z.union([z.string(), z.number()])).default({}) }).prefault({}),
});
const podSchema = z.object({
  metadata: z.object({
    name: z.string(),
    namespace: z.string().default(""),
    labels: z.record(z.string(), z.string()).default({}),
    creationTimestamp: z.string().optional(),
    deletionTimestamp: z.string().optional(),
  }),
  spec: z
    .object({ nodeName: z.string().optional(), schedulingGates: gatesSchema, containers: z.array(container).default([]) })
    .prefault({}),
  status: z
    .object({
      phase: z.string().default("Unknown"),
      reason: z.string().default(""),
      message: z.string().default(""),
      conditions: z
        .array(z.object({ type: z.string(), status: z.string(), reason: z.string().default(""), message: z.string().default("") }))
        .default([]),
      initContainerStatuses: z.array(containerStatus).default([]),
      containerStatuses: z.array(containerStatus).default([]),
    })
    .prefault({}),
});
type Pod = z.infer<typeof podSchema>;

const timeOf = (text: string | undefined): Date | undefined => (text === undefined ? undefined : new Date(text));
const reasonText = (reason: string, message: string): string => [reason, message].filter((part) => part !== "").join(": ");

/** Undefined for other pods. `install`: owner of the operator's pods. */
export function podFactsOf(object: KubeObject, install?: string) {
  const parsed = podSchema.safeParse(object);
  if (!parsed.success) return undefined;
  const { metadata, spec, status } = parsed.data;
  const job = metadata.labels[labels.trainingJob];
  const owner = metadata.labels[labels.deployment] ?? job ?? install;
  if (owner === undefined) return undefined;
  const condition = (type: string) => status.conditions.find((one) => one.type === type);
  const scheduled = condition("PodScheduled");
  const rank = Number(metadata.labels[labels.rank] ?? Number.NaN);
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    /** worker, gateway, training or operator. */
    component: job === undefined ? (metadata.labels[labels.component] ?? "operator") : "training",
    /** Name of the deployment, job or install. */
    owner,
    rank: Number.isInteger(rank) ? rank : undefined,
    node: spec.nodeName,
    phase: status.phase,
    /** Evicted and the like. */
    failure: reasonText(status.reason, status.message),
    ready: condition("Ready")?.status === "True",
    terminating: metadata.deletionTimestamp !== undefined,
    /** The scheduler's message; empty once it has a node. */
    unscheduled: scheduled?.status === "False" && scheduled.reason !== schedulingGated ? scheduled.message : "",
    gates: spec.schedulingGates,
    createdAt: timeOf(metadata.creationTimestamp),
    containers: containersOf(spec, status),
  };
}

function containersOf(spec: Pod["spec"], status: Pod["status"]) {
  return [...status.initContainerStatuses, ...status.containerStatuses].map((one) => {
    const ended = one.state.terminated ?? one.lastState.terminated;
    const declared = spec.containers.find(({ name }) => name === one.name);
    const limit = declared?.resources.limits.memory;
    return {
      name: one.name,
      image: declared?.image ?? "",
      memoryLimit: limit === undefined ? undefined : String(limit),
      restarts: one.restartCount,
      waiting: one.state.waiting,
      ended: ended && { reason: ended.reason, exitCode: ended.exitCode, message: ended.message, at: timeOf(ended.finishedAt) },
    };
  });
}
