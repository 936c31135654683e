// The reads of `enodia status`. The output names what cannot be read or parsed.
import { AppError, labels } from "../../crds/common.ts";
import { type ExpertPlacement, parseExpertPlacement } from "../../crds/expert-placement.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../crds/moe-deployment.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import { type KubeObject, type Resource, resources } from "../kube/kube.ts";
import type { Transport } from "../kube/transport.ts";
import { warningItems } from "../kube/warnings.ts";
import type { Observed, SeenDeployment, Unread, WarningEvent } from "../views/findings/finding.ts";
import { changedAt, warningOf } from "../views/findings/seen.ts";
import { type ContainerFacts, type PodFacts, podFactsOf } from "../views/pods.ts";
import { type ClusterAccess, objectOf } from "./kube.ts";

export interface Scope {
  /** undefined: all namespaces. */
  readonly namespace: string | undefined;
  /** undefined: all deployments and jobs. */
  readonly name: string | undefined;
}

type Gathering = SeenDeployment & { readonly placement: ExpertPlacement | undefined };

export interface Gathered extends Observed {
  readonly deployments: readonly Gathering[];
  readonly workers: readonly PodFacts[];
}

/** Throws AppError `NotFound` without the named deployment, or without the CRDs. */
export async function gather(cluster: ClusterAccess, scope: Scope): Promise<Gathered> {
  const unread: Unread[] = [];
  const read = reader(cluster, scope, unread);
  const [seen, jobs, pods, trainingPods, events] = await Promise.all([
    deploymentsOf(cluster, scope, unread),
    scope.name === undefined ? read(resources.moeTrainingJobs, undefined) : [],
    read(resources.pods, scope.name === undefined ? labels.deployment : `${labels.deployment}=${scope.name}`),
    scope.name === undefined ? read(resources.pods, labels.trainingJob) : [],
    warningsOf(cluster, scope, unread),
  ]);
  const facts = [...pods, ...trainingPods].flatMap((object) => podFactsOf(object) ?? []);
  return {
    now: new Date(),
    deployments: seen,
    jobs: jobs.flatMap((object) => parsed(object, parseMoETrainingJob, unread)),
    pods: await withExitMessages(cluster.transport, facts),
    events,
    unread: distinct(unread),
    workers: facts.filter(({ component }) => component === "worker"),
  };
}

const inScope = ({ namespace }: Scope) => (namespace === undefined ? {} : { namespace });

function reader(cluster: ClusterAccess, scope: Scope, unread: Unread[]) {
  return async (resource: Resource, labelSelector: string | undefined): Promise<readonly KubeObject[]> => {
    try {
      const selector = labelSelector === undefined ? {} : { labelSelector };
      return (await cluster.kube.list(resource, { ...inScope(scope), ...selector })).items;
    } catch (caught) {
      unread.push({ what: resource.plural, why: AppError.from(caught).message });
      return [];
    }
  };
}

async function deploymentsOf(cluster: ClusterAccess, scope: Scope, unread: Unread[]): Promise<Gathering[]> {
  const { namespace, name } = scope;
  if (name === undefined) {
    // A plan may be 1 MB, so that those of all deployments are not read.
    const items = await listDeployments(cluster, scope);
    return items.flatMap((object) => parsed(object, parseMoEDeployment, unread).map((deployment) => seenOf(object, deployment, undefined)));
  }
  const ref = { namespace: namespace ?? cluster.namespace, name };
  const [object, plan] = await Promise.all([
    objectOf(cluster.kube, resources.moeDeployments, ref),
    cluster.kube.get(resources.expertPlacements, ref),
  ]);
  const [placement] = plan ? parsed(plan, parseExpertPlacement, unread) : [];
  return [seenOf(object, parseMoEDeployment(object), placement)];
}

async function listDeployments(cluster: ClusterAccess, scope: Scope): Promise<readonly KubeObject[]> {
  try {
    return (await cluster.kube.list(resources.moeDeployments, inScope(scope))).items;
  } catch (caught) {
    const error = AppError.from(caught);
    if (error.code !== "NotFound") throw error;
    throw new AppError("the cluster has no MoEDeployments: the chart is not installed; see: enodia doctor", {
      code: "NotFound",
      cause: error,
    });
  }
}

function seenOf(object: KubeObject, deployment: MoEDeployment, placement: ExpertPlacement | undefined): Gathering {
  return { deployment, placement, changedAt: changedAt(object) };
}

function parsed<T extends MoEDeployment | MoETrainingJob | ExpertPlacement>(
  object: KubeObject,
  parse: (object: unknown) => T,
  unread: Unread[],
): T[] {
  try {
    return [parse(object)];
  } catch (caught) {
    const { namespace, name } = object.metadata;
    unread.push({ what: `${object.kind} ${namespace}/${name}`, why: `not of this version's form: ${AppError.from(caught).message}` });
    return [];
  }
}

async function warningsOf(cluster: ClusterAccess, { namespace }: Scope, unread: Unread[]): Promise<WarningEvent[]> {
  const found: WarningEvent[] = [];
  try {
    for await (const item of warningItems(cluster.transport, namespace)) {
      const event = warningOf(item);
      if (event) found.push(event);
    }
  } catch (caught) {
    unread.push({ what: "events", why: AppError.from(caught).message });
  }
  return found;
}

const distinct = (unread: readonly Unread[]): Unread[] => [...new Map(unread.map((one) => [`${one.what} ${one.why}`, one])).values()];

/** Pods whose logs are read; similar ones log the same. */
const podsMax = 8;
const linesMax = 3;
const bytesMax = 16_384;
const answerMsMax = 3_000;
/** A kubelet answers this text without an error once the log of an ended container is gone. */
const goneLog = "unable to retrieve container logs for ";

const isSilent = ({ ended }: ContainerFacts): boolean => ended !== undefined && ended.exitCode !== 0 && ended.message === "";

export async function withExitMessages(transport: Pick<Transport, "request">, pods: readonly PodFacts[]): Promise<PodFacts[]> {
  const silent = new Set(pods.filter(({ containers }) => containers.some(isSilent)).slice(0, podsMax));
  return Promise.all(
    pods.map(async (pod) => {
      if (!silent.has(pod)) return pod;
      const containers = await Promise.all(pod.containers.map((container) => withMessage(transport, pod, container)));
      return { ...pod, containers };
    }),
  );
}

async function withMessage(transport: Pick<Transport, "request">, pod: PodFacts, container: ContainerFacts): Promise<ContainerFacts> {
  const { ended, name } = container;
  if (!ended || !isSilent(container)) return container;
  const query = new URLSearchParams({ container: name, previous: "true", tailLines: String(linesMax), limitBytes: String(bytesMax) });
  const path = `/api/v1/namespaces/${encodeURIComponent(pod.namespace)}/pods/${encodeURIComponent(pod.name)}/log?${query}`;
  try {
    const message = await transport.request({ method: "GET", path, signal: AbortSignal.timeout(answerMsMax) });
    return message.startsWith(goneLog) ? container : { ...container, ended: { ...ended, message } };
  } catch {
    return container; // the finding has the exit code and the command for the log
  }
}
