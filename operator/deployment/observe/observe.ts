// All reads of a pass: the caches, the claim, and who sets the number of ranks.
import { z } from "zod";
import { AppError, labels } from "../../../crds/common.ts";
import { downloaderComponent, readDownloadEnd } from "../../../crds/download.ts";
import { type MoEDeployment, type MoEDeploymentSpec, moeDeploymentSpecSchema, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { moeDeploymentStatusSchema } from "../../../crds/moe-deployment-status.ts";
import { weightServerComponent } from "../../../crds/weight-server.ts";
import { chooseScheduler } from "../../gangs/index.ts";
import { hasCode } from "../../kube/errors.ts";
import type { Informers, PodOverlay } from "../../kube/informers.ts";
import { type Kube, type KubeObject, keyOf, type Ref, resources } from "../../kube/kube.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import type { AcceptedSpecs } from "../state/accepted-specs.ts";
import { numberHasFallen } from "../autoscaler.ts";
import type { Front } from "../core/green-look.ts";
import { withLosses } from "../core/loss.ts";
import type { Memory } from "../core/memory.ts";
import type { PodFacts } from "../core/snapshot.ts";
import { sourcing } from "../features/model-source.ts";
import { names, type Settings } from "../objects/context.ts";
import { downloadJobName, modelOfPod, modelPlace, oneNodeOnly, workFolders } from "../objects/model-place.ts";
import type { GreenSeen, Observed, WeightServerPod } from "../observed.ts";
import { findOrphans, isOfOther } from "../orphans.ts";
import { gatewayFacts, gatewayModels, gatewayPods, type NodeHealth, nodesSeen, podFacts, podSight } from "./pod-facts.ts";
import type { Rebalance } from "../ports.ts";
import type { ProgressTalks } from "../progress-talks.ts";
import { inUse, renderSpec } from "./render.ts";
import type { Accepted } from "../objects/revision.ts";
import { routeFacts } from "../route-facts.ts";

const namedMax = 4;

export interface ObserveDeps {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly overlay: PodOverlay;
  readonly rebalance: Pick<Rebalance, "view">;
  readonly accepted: AcceptedSpecs;
  readonly talks: Pick<ProgressTalks, "words">;
  readonly settings: Settings;
  readonly now: () => Date;
  readonly ticks: () => number;
}

export interface ReadDeployment {
  readonly deployment: MoEDeployment;
  readonly unreadable: readonly Refusal[];
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
  { deployment, unreadable }: ReadDeployment,
  { memory, warmMs }: { readonly memory: Memory; readonly warmMs: number },
): Promise<Observed> {
  const { informers, settings, rebalance, accepted: store } = deps;
  const { metadata, spec } = deployment;
  const now = deps.now();
  const view = rebalance.view(metadata.uid);
  const nodes = nodesSeen(informers, spec.scheduling.topology?.key);
  const pods = withLosses(workersOf(deps, deployment, nodes), view, warmMs > 0);
  const front = gatewayPodsOf(deps, deployment);
  const revisions = store.revisions(metadata.uid);
  const use = inUse(deployment, { revisions, pods, settings });
  const [source, fallen] = await Promise.all([
    sourceOf(deps, deployment, { pods, accepted: use.accepted, image: use.runtimeImage }),
    numberHasFallen(deps.kube, deployment),
  ]);
  const green = greenOf(deps, deployment, nodes);
  const served = (resource: Parameters<Informers["served"]>[0]) => informers.served(resource, metadata.namespace);
  return Object.freeze({
    ...{ now, ticksMs: deps.ticks(), warmMs, deployment, unreadable, settings, memory, pods, revisions, view, fallen, ...source },
    orphans: findOrphans(deps, deployment),
    gateway: gatewayOf(deps, deployment, front),
    gatewayModels: gatewayModels(front, now.getTime()),
    gatewayPods: gatewayPods(front),
    rendered: renderSpec(deployment, use, { settings, remoteStore: source.remoteStore }),
    download: downloadOf(deps, deployment),
    weightServer: weightServerOf(deps, deployment),
    green,
    front: frontOf(deps, deployment, green?.name),
    route: routeFacts(served(resources.httpRoutes), ownObject(informers.get("httpRoutes", metadata), metadata.uid)),
    gangs: chooseScheduler(spec, served),
  });
}

const owns = ({ metadata }: KubeObject, uid: string): boolean => metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;
const ownObject = (object: KubeObject | undefined, uid: string): KubeObject | undefined =>
  object && owns(object, uid) ? object : undefined;
const isComponent = (pod: KubeObject, component: string): boolean => pod.metadata.labels?.[labels.component] === component;
const createdMsOf = ({ metadata }: KubeObject): number => Date.parse(metadata.creationTimestamp ?? "") || 0;

function workersOf({ informers, overlay, now }: ObserveDeps, { metadata: { uid } }: MoEDeployment, nodes: NodeHealth) {
  const ours = (pod: KubeObject) => isComponent(pod, "worker") && owns(pod, uid);
  const at = now().getTime();
  return overlay.merge(informers.ownedBy("pods", uid).filter(ours), ours).flatMap((pod) => podFacts(pod, nodes, at) ?? []);
}

function gatewayPodsOf({ informers }: ObserveDeps, { metadata }: MoEDeployment): KubeObject[] {
  return informers.ofDeployment("pods", metadata).filter((pod) => isComponent(pod, "gateway") && !isOfOther(pod, metadata.uid));
}

function gatewayOf({ informers, now }: ObserveDeps, { metadata }: MoEDeployment, pods: readonly KubeObject[]) {
  const ref = { namespace: metadata.namespace, name: names.gateway(metadata.name) };
  const deployment = ownObject(informers.get("deployments", ref), metadata.uid);
  return gatewayFacts({ deployment, autoscaler: informers.get("horizontalPodAutoscalers", ref) }, pods, now().getTime());
}

type Source = Pick<Observed, "remoteStore" | "claim" | "claimFailure" | "sourceUnknown">;

/** Reads the claim only where something depends on it. A weight server stays while the answer is unknown. */
async function sourceOf({ kube }: ObserveDeps, deployment: MoEDeployment, input: Parameters<typeof sourcing>[1]): Promise<Source> {
  const { settled, before } = sourcing(deployment, input);
  const allReady = input.pods.length > 0 && input.pods.every((pod) => pod.ready);
  if (settled !== undefined && allReady) return { remoteStore: settled, claim: "Present", claimFailure: undefined, sourceUnknown: false };
  const { claim, oneNode, failure } = await claimOf(kube, deployment);
  const remoteStore = settled ?? (failure ? before : oneNode);
  const sourceUnknown = settled === undefined && failure !== undefined;
  return { remoteStore, claim: allReady ? "Present" : claim, claimFailure: failure, sourceUnknown };
}

async function claimOf(kube: Kube, { metadata, spec }: MoEDeployment) {
  const { claim: name } = modelPlace(spec);
  if (name === undefined) return { claim: "Present" as const, oneNode: false, failure: undefined };
  try {
    const found = await kube.get(resources.persistentVolumeClaims, { namespace: metadata.namespace, name });
    return {
      claim: found ? ("Present" as const) : ("Missing" as const),
      oneNode: found !== undefined && oneNodeOnly(found),
      failure: undefined,
    };
  } catch (error) {
    return { claim: "Unknown" as const, oneNode: false, failure: AppError.from(error, "looking for the model's claim") };
  }
}

function downloadOf({ informers, now, talks }: ObserveDeps, deployment: MoEDeployment): Observed["download"] {
  const { metadata } = deployment;
  const at = now().getTime();
  const wanted = downloadJobName(deployment);
  const jobs = informers.ownedBy("jobs", metadata.uid);
  const uids = new Map(jobs.map((job) => [job.metadata.uid, job.metadata.name]));
  const jobOf = (pod: KubeObject) => pod.metadata.ownerReferences?.map(({ uid }) => uids.get(uid)).find((name) => name !== undefined);
  const all = informers.ofDeployment("pods", metadata).filter((pod) => isComponent(pod, downloaderComponent));
  const isThere = jobs.some((job) => job.metadata.name === wanted);
  const pods = all
    .filter((pod) => jobOf(pod) !== undefined)
    .map((pod) => {
      const { ip, running, problem, ended } = podSight(pod, at);
      const end = ended === undefined ? undefined : (readDownloadEnd(ended) ?? { reason: "DownloadFailed", message: ended });
      const seen = { uid: pod.metadata.uid ?? "", job: jobOf(pod) ?? "", createdMs: createdMsOf(pod) };
      return { ...seen, ip: running ? ip : undefined, problem, end };
    });
  const running = pods.find((pod) => pod.job === wanted && pod.ip !== undefined && pod.end === undefined);
  const inNamespace = () => informers.list("moeDeployments", (one) => one.metadata.namespace === metadata.namespace);
  return {
    wanted,
    words: talks.words(keyOf(metadata), running?.uid),
    workInUse: wanted === undefined || isThere ? undefined : workFolders(inNamespace()),
    writers: all
      .filter((pod) => podSight(pod, at).ended === undefined && (!isThere || jobOf(pod) !== wanted))
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
    state: failed ? "Failed" : holds("Complete") ? "Complete" : "Running",
    failedMs: failed ? Date.parse(failed.lastTransitionTime) || now : undefined,
    message: failed ? `${failed.reason}: ${failed.message}` : "",
    terminating: metadata.deletionTimestamp !== undefined,
  };
}

function weightServerOf({ informers, now, talks }: ObserveDeps, { metadata }: MoEDeployment): Observed["weightServer"] {
  const at = now().getTime();
  const own = informers.ofDeployment("pods", metadata).filter((pod) => isComponent(pod, weightServerComponent));
  const pods = own.flatMap((pod): WeightServerPod[] => {
    const { ended, ...sight } = podSight(pod, at);
    if (ended !== undefined) return [];
    const { uid = "", name, deletionTimestamp } = pod.metadata;
    return [{ uid, name, ...sight, createdMs: createdMsOf(pod), model: modelOfPod(pod), terminating: deletionTimestamp !== undefined }];
  });
  const running = pods.find((pod) => pod.running && !pod.ready && pod.ip !== undefined);
  return { pods, words: talks.words(keyOf(metadata), running?.uid) };
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
