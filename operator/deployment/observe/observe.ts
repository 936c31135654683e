// All reads of a pass: the caches, the claim, and the NATS credentials.

import { z } from "zod";
import { AppError, annotations, labels } from "../../../crds/common.ts";
import { readDownloadEnd } from "../../../crds/download.ts";
import { type MoEDeployment, type MoEDeploymentSpec, moeDeploymentSpecSchema, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { moeDeploymentStatusSchema } from "../../../crds/moe-deployment-status.ts";
import { chooseScheduler } from "../../gangs/index.ts";
import { isOwned } from "../../kube/adoption.ts";
import { hasCode } from "../../kube/errors.ts";
import type { Informers, PodOverlay } from "../../kube/informers.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../../kube/kube.ts";
import { managersOf } from "../../kube/managed-fields.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import type { ClaimUse } from "../../pods/claim-holder.ts";
import { type ClaimReach, claimReach, claimUse } from "../../pods/claim-use.ts";
import { firstGateways } from "../core/first-gateways.ts";
import type { Front } from "../core/green-look.ts";
import type { Memory } from "../core/memory.ts";
import { hasFallen, ownership } from "../core/replicas-owner.ts";
import { living, type ObservedPod, type PodFacts, type RouteFacts } from "../core/snapshot.ts";
import { names, type Settings } from "../objects/context.ts";
import { downloadJobName, modelOfPod, modelPlace, workFolders } from "../objects/model-place.ts";
import { workerHash } from "../objects/pod-hash.ts";
import type { Accepted } from "../objects/revision.ts";
import { mountsClaim } from "../objects/worker-pod.ts";
import type { GreenSeen, Observed, WeightServerPod } from "../observed.ts";
import type { Rebalance } from "../ports.ts";
import type { AcceptedSpecs } from "../state/accepted-specs.ts";
import type { DownloadPolls } from "../state/download-progress.ts";
import type { TelemetrySecrets } from "../state/telemetry-secret.ts";
import { gatewayNeeds, nodeCapacity } from "./node-capacity.ts";
import { orphansOf, ownPods } from "./own-pods.ts";
import {
  gatewayFacts,
  gatewayModels,
  gatewayPods,
  isSilent,
  type NodeHealth,
  nodesSeen,
  podFacts,
  podState,
  podsRefused,
  withLosses,
} from "./pod-facts.ts";
import { inUse, renderSpec } from "./render.ts";

const namedMax = 4;

export interface ObserveDeps {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly overlay: PodOverlay;
  readonly rebalance: Pick<Rebalance, "view">;
  readonly accepted: Pick<AcceptedSpecs, "revisions">;
  readonly polls: Pick<DownloadPolls, "report">;
  readonly telemetry: Pick<TelemetrySecrets, "credentials">;
  readonly settings: Settings;
  readonly now: () => Date;
  readonly ticks: () => number;
}

export interface ReadDeployment {
  readonly deployment: MoEDeployment;
  readonly unreadable: readonly Refusal[];
}

export interface Known {
  readonly memory: Memory;
  readonly warmMs: number;
  /** The object is as new as our last status. */
  readonly isLatest: boolean;
}

/** Falls back to the last accepted spec. Throws `InvalidSpec` without one. */
export function readDeployment(object: KubeObject, accepted: Accepted | undefined): ReadDeployment {
  try {
    return { deployment: parseMoEDeployment(object), unreadable: [] };
  } catch (error) {
    if (!accepted || !hasCode(error, "InvalidSpec")) throw error;
    const { code: reason, message } = error as AppError;
    const own = object.spec as { replicas?: unknown; suspend?: unknown; rolloutStrategy?: unknown } | undefined;
    const { replicas, suspend, rolloutStrategy } = moeDeploymentSpecSchema.shape;
    const spec = {
      ...accepted.spec,
      replicas: replicas.safeParse(own?.replicas).data ?? accepted.spec.replicas,
      suspend: suspend.safeParse(own?.suspend).data ?? accepted.spec.suspend,
      rolloutStrategy: rolloutStrategy.safeParse(own?.rolloutStrategy).data ?? accepted.spec.rolloutStrategy,
    };
    return { deployment: parseMoEDeployment({ ...object, spec }), unreadable: [{ reason, message }] };
  }
}

export async function observe(
  deps: ObserveDeps,
  { deployment, unreadable, object }: ReadDeployment & { readonly object: KubeObject },
  { memory, warmMs, isLatest }: Known,
): Promise<Observed> {
  const { informers, settings, rebalance, accepted: store } = deps;
  const { metadata, spec } = deployment;
  const now = deps.now();
  const at = now.getTime();
  const view = rebalance.view(metadata.uid);
  const nodes = nodesSeen(informers, spec.scheduling.topology?.key);
  const own = ownPods(deps, deployment);
  const ticksMs = deps.ticks();
  const workers = own.workers.flatMap((pod) => counted(podFacts(pod, nodes, at), memory.goneAtMs, ticksMs));
  const pods = withLosses(workers, view, warmMs > 0);
  const revisions = store.revisions(metadata);
  const use = inUse(deployment, { revisions, pods, settings });
  const [source, natsCredentials] = await Promise.all([
    sourceOf(deps, deployment, { pods, accepted: use.accepted, image: use.runtimeImage }),
    credentialsOf(deps, deployment),
  ]);
  const green = greenOf(deps, deployment, nodes);
  const gateway = gatewayOf(deps, deployment, own.gateways);
  const rendered = renderSpec(deployment, use, { settings, remoteStore: source.remoteStore });
  const served = (resource: Parameters<Informers["served"]>[0]) => informers.served(resource, metadata.namespace);
  return Object.freeze({
    ...{ now, ticksMs, warmMs, deployment, unreadable, settings, memory, pods, revisions, view, ...source },
    ...numberOf(object, deployment, isLatest),
    natsCredentials,
    orphans: orphansOf(own.others, metadata.name, nodes, at),
    gateway,
    firstGateways: !gateway.replicas ? firstOf(deps, rendered.gateways.pod.spec) : undefined,
    gatewayModels: gatewayModels(own.gateways, at),
    gatewayPods: gatewayPods(own.gateways),
    rendered,
    download: downloadOf(deps, deployment, own.downloaders),
    weightServer: weightServerOf(deps, deployment, own.weightServers),
    claimUses: source.remoteStore
      ? claimUses(deps, [deployment, use.accepted, use.stable], (pod, node) => isSilent(pod, node, nodes, at))
      : [],
    green,
    front: frontOf(deps, deployment, green?.name),
    route: routeFacts(served(resources.httpRoutes), ownObject(informers.get("httpRoutes", metadata), metadata.uid)),
    gangs: chooseScheduler(spec, served),
  });
}

/** The grace period of a pod from when this process first saw it terminate, whatever clocks say. */
function counted(pod: ObservedPod | undefined, goneAtMs: Memory["goneAtMs"], ticksMs: number): ObservedPod[] {
  if (pod?.goneInMs === undefined) return pod ? [pod] : [];
  return [{ ...pod, goneInMs: Math.min(pod.goneInMs, (goneAtMs.get(pod.uid) ?? Number.POSITIVE_INFINITY) - ticksMs) }];
}

const ownObject = (object: KubeObject | undefined, uid: string): KubeObject | undefined =>
  object && isOwned(object, uid) ? object : undefined;
const isComponent = (pod: KubeObject, component: string): boolean => pod.metadata.labels?.[labels.component] === component;
const createdMsOf = ({ metadata }: KubeObject): number => Date.parse(metadata.creationTimestamp ?? "") || 0;

/** Who sets the number of ranks, by the same version of the object that has the number. */
function numberOf(
  object: KubeObject,
  { spec, status }: MoEDeployment,
  isLatest: boolean,
): Pick<Observed, "replicasOwner" | "fallen" | "resourceVersion" | "stale"> {
  const { resourceVersion = "", annotations: marks } = object.metadata;
  const own = (object.spec as { readonly replicas?: number } | undefined)?.replicas ?? spec.replicas;
  const { autoscale } = spec.elasticity;
  const known = { resourceVersion, stale: !isLatest || own !== spec.replicas };
  if (!autoscale) return { ...known, replicasOwner: undefined, fallen: false };
  const managers = managersOf(object, ["spec", "replicas"]);
  const owner = ownership({ managers, lastSet: status.autoscale?.lastScale?.time, resume: marks?.[annotations.resumeAutoscale] });
  const present = Math.min(status.expertParallel?.desiredRanks ?? 0, autoscale.max);
  const fallen = !spec.suspend && spec.replicas > 0 && (own !== spec.replicas || hasFallen(owner, spec.replicas, present));
  return { ...known, replicasOwner: owner, fallen };
}

async function credentialsOf({ telemetry }: ObserveDeps, deployment: MoEDeployment): Promise<Observed["natsCredentials"]> {
  try {
    return { entries: await telemetry.credentials(deployment), failure: undefined };
  } catch (caught) {
    return { entries: undefined, failure: AppError.from(caught, "reading the NATS credentials") };
  }
}

function gatewayOf({ informers, now }: ObserveDeps, { metadata }: MoEDeployment, pods: readonly KubeObject[]) {
  const ref = { namespace: metadata.namespace, name: names.gateway(metadata.name) };
  const deployment = ownObject(informers.get("deployments", ref), metadata.uid);
  return gatewayFacts({ deployment, autoscaler: informers.get("horizontalPodAutoscalers", ref) }, pods, now().getTime());
}

/** An operator that may not read nodes does not know of two. */
function firstOf({ informers }: ObserveDeps, pod: object): number {
  const needs = gatewayNeeds(pod);
  return needs ? firstGateways(needs, informers.seesNodes ? informers.list("nodes").flatMap(nodeCapacity) : []).count : 1;
}

interface Sourcing {
  /** Undefined where the claim must be read: the spec is new, or no rank that mounts it has a node. */
  readonly settled: boolean | undefined;
  /** The accepted spec's ranks have a weight server. */
  readonly before: boolean;
}

interface SourcingInput {
  readonly pods: readonly PodFacts[];
  readonly accepted: Accepted | undefined;
  /** Pods that name no image get this one. */
  readonly image: string;
}

/** Decides without the claim where possible, before anything is rendered. */
function sourcing(deployment: MoEDeployment, { pods, accepted, image }: SourcingInput): Sourcing {
  if (deployment.spec.model.cache?.ephemeral) return { settled: true, before: true };
  if (accepted === undefined) return { settled: undefined, before: false };
  const { template } = accepted;
  if (template.hash === workerHash(deployment, image, true)) return { settled: true, before: true };
  if (!mountsClaim(template)) return { settled: undefined, before: true };
  const hasNode = template.hash === workerHash(deployment, image) && living(pods).some((pod) => pod.node !== undefined);
  return { settled: hasNode ? false : undefined, before: false };
}

type Source = Pick<Observed, "remoteStore" | "claim" | "oncePod" | "claimFailure" | "sourceUnknown">;

/** Reads the claim only where something depends on it. A weight server stays while the answer is unknown. */
async function sourceOf({ kube }: ObserveDeps, deployment: MoEDeployment, input: SourcingInput): Promise<Source> {
  const { settled, before } = sourcing(deployment, input);
  const allReady = input.pods.length > 0 && input.pods.every((pod) => pod.ready);
  if (settled !== undefined && allReady)
    return { remoteStore: settled, claim: "Present", oncePod: false, claimFailure: undefined, sourceUnknown: false };
  const { claim, reach, failure } = await claimOf(kube, deployment);
  const remoteStore = settled ?? (failure ? before : reach !== "Nodes");
  const sourceUnknown = settled === undefined && failure !== undefined;
  return { remoteStore, claim: allReady ? "Present" : claim, oncePod: reach === "Pod", claimFailure: failure, sourceUnknown };
}

async function claimOf(kube: Kube, { metadata, spec }: MoEDeployment) {
  const { claim: name } = modelPlace(spec);
  const reach: ClaimReach = "Nodes";
  if (name === undefined) return { claim: "Present" as const, reach, failure: undefined };
  try {
    const found = await kube.get(resources.persistentVolumeClaims, { namespace: metadata.namespace, name });
    return {
      claim: found ? ("Present" as const) : ("Missing" as const),
      reach: found ? claimReach(found) : reach,
      failure: undefined,
    };
  } catch (error) {
    return { claim: "Unknown" as const, reach, failure: AppError.from(error, "looking for the model's claim") };
  }
}

/** Who uses the claims of the spec, and those of the specs that a weight server may keep. */
function claimUses({ informers }: ObserveDeps, [of, ...kept]: WithModel, isGone: (pod: KubeObject, node: string) => boolean): ClaimUse[] {
  const claims = new Set([of, ...kept].flatMap((one) => (one && modelPlace(one.spec).claim) ?? []));
  const { namespace } = of.metadata;
  return [...claims].flatMap((claim) =>
    informers.mounting({ namespace, name: claim }).flatMap((pod) => {
      const use = claimUse(pod, claim);
      return use && !isGone(pod, use.node) ? { ...use, model: modelOfPod(pod) } : [];
    }),
  );
}

type WithModel = readonly [MoEDeployment, ...(Pick<Accepted, "spec"> | undefined)[]];

function downloadOf({ informers, now, polls }: ObserveDeps, deployment: MoEDeployment, all: readonly KubeObject[]): Observed["download"] {
  const { metadata } = deployment;
  const at = now().getTime();
  const wanted = downloadJobName(deployment);
  const jobs = informers.ownedBy("jobs", metadata.uid);
  const uids = new Map(jobs.map((job) => [job.metadata.uid, job.metadata.name]));
  const jobOf = (pod: KubeObject) => pod.metadata.ownerReferences?.map(({ uid }) => uids.get(uid)).find((name) => name !== undefined);
  const isThere = jobs.some((job) => job.metadata.name === wanted);
  const pods = all
    .filter((pod) => jobOf(pod) !== undefined)
    .map((pod) => {
      const { ip, running, problem, ended } = podState(pod, at);
      const end = ended === undefined ? undefined : (readDownloadEnd(ended) ?? { reason: "DownloadFailed", message: ended });
      const seen = { uid: pod.metadata.uid ?? "", job: jobOf(pod) ?? "", createdMs: createdMsOf(pod) };
      return { ...seen, ip: running ? ip : undefined, problem, end };
    });
  const running = pods.find((pod) => pod.job === wanted && pod.ip !== undefined && pod.end === undefined);
  const inNamespace = () => informers.list("moeDeployments", (one) => one.metadata.namespace === metadata.namespace);
  return {
    wanted,
    report: polls.report(metadata, running?.uid),
    workInUse: wanted === undefined || isThere ? undefined : workFolders(inNamespace()),
    writers: all
      .filter((pod) => podState(pod, at).ended === undefined && (!isThere || jobOf(pod) !== wanted))
      .map((pod) => pod.metadata.name)
      .slice(0, namedMax),
    jobs: jobs.map((job) => jobFacts(job, at)),
    pods,
  };
}

const conditionSchema = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().default(""),
  message: z.string().default(""),
  lastTransitionTime: z.string().default(""),
});
const jobStatusSchema = z.object({ conditions: z.array(conditionSchema).default([]) }).prefault({});

function jobFacts({ metadata, status }: KubeObject, now: number): Observed["download"]["jobs"][number] {
  const conditions = jobStatusSchema.safeParse(status).data?.conditions ?? [];
  const holds = (type: string) => conditions.find((one) => one.type === type && one.status === "True");
  const failed = holds("Failed");
  return {
    name: metadata.name,
    uid: metadata.uid ?? "",
    createdMs: Date.parse(metadata.creationTimestamp ?? "") || now,
    state: failed ? "Failed" : holds("Complete") ? "Complete" : "Running",
    failedMs: failed ? Date.parse(failed.lastTransitionTime) || now : undefined,
    message: failed ? `${failed.reason}: ${failed.message}` : "",
    terminating: metadata.deletionTimestamp !== undefined,
    held: metadata.annotations?.[annotations.claimNode],
  };
}

function weightServerOf(
  { informers, now, polls }: ObserveDeps,
  { metadata }: MoEDeployment,
  own: readonly KubeObject[],
): Observed["weightServer"] {
  const at = now().getTime();
  const pods = own.flatMap((pod): WeightServerPod[] => {
    const { ended, ...state } = podState(pod, at);
    if (ended !== undefined) return [];
    const { uid = "", name, deletionTimestamp } = pod.metadata;
    return [{ uid, name, ...state, createdMs: createdMsOf(pod), model: modelOfPod(pod), terminating: deletionTimestamp !== undefined }];
  });
  const running = pods.find((pod) => pod.running && !pod.terminating && pod.ip !== undefined);
  const refused = podsRefused(informers.get("deployments", { namespace: metadata.namespace, name: names.weightServer(metadata.name) }));
  return { pods, refused, report: polls.report(metadata, running?.uid) };
}

function greenOf(deps: ObserveDeps, { metadata }: MoEDeployment, nodes: NodeHealth): GreenSeen | undefined {
  const { informers, now, rebalance } = deps;
  const owned = informers.ownedBy("moeDeployments", metadata.uid);
  const object = owned.find((one) => one.metadata.name === selectorOf(deps, metadata)?.[labels.deployment]) ?? owned[0];
  if (!object) return undefined;
  const { name, uid = "", generation = 0, deletionTimestamp, creationTimestamp } = object.metadata;
  const all = informers.ofDeployment("pods", { namespace: metadata.namespace, name });
  const at = now().getTime();
  const workers = all.filter((pod) => isComponent(pod, "worker")).flatMap((pod) => podFacts(pod, nodes, at) ?? []);
  return {
    ...{ name, uid, generation, createdMs: Date.parse(creationTimestamp ?? "") || at, terminating: deletionTimestamp !== undefined },
    spec: (object.spec ?? {}) as Partial<Pick<MoEDeploymentSpec, "suspend" | "replicas" | "gateway">>,
    status: moeDeploymentStatusSchema.safeParse(object.status ?? {}).data ?? {},
    workers: workers.map((pod): PodFacts => ({ ...pod, lost: false })),
    pods: all.length,
    members: rebalance.view(uid)?.members ?? [],
  };
}

function selectorOf({ informers }: ObserveDeps, ref: Ref): Readonly<Record<string, string>> | undefined {
  return (informers.get("services", ref)?.spec as { selector?: Record<string, string> } | undefined)?.selector;
}

function frontOf(deps: ObserveDeps, { metadata }: MoEDeployment, green: string | undefined): Front {
  if (green === undefined) return "Own";
  const selector = selectorOf(deps, metadata);
  if (selector?.[labels.front] !== undefined) return "Both";
  return selector?.[labels.deployment] === green ? "Green" : "Own";
}

const condition = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().default(""),
  message: z.string().default(""),
  observedGeneration: z.number().optional(),
});
const parent = z.object({
  parentRef: z.object({
    group: z.string().default("gateway.networking.k8s.io"),
    kind: z.string().default("Gateway"),
    name: z.string(),
    namespace: z.string().optional(),
    sectionName: z.string().optional(),
  }),
  controllerName: z.string().default("a controller without a name"),
  conditions: z.array(condition).default([]),
});
const statusSchema = z.object({ status: z.object({ parents: z.array(z.unknown()).default([]) }).prefault({}) });

export function routeFacts(served: RouteFacts["served"], object: KubeObject | undefined): RouteFacts {
  if (!object) return { served, route: undefined };
  const parents = (statusSchema.safeParse(object).data?.status.parents ?? []).flatMap((one) => {
    const { data } = parent.safeParse(one);
    if (data?.parentRef.kind !== "Gateway") return [];
    const { name, namespace, sectionName } = data.parentRef;
    return [{ name, namespace, sectionName, controller: data.controllerName, conditions: data.conditions }];
  });
  return { served, route: { generation: object.metadata.generation ?? 0, parents } };
}
