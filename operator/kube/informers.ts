// The operator's informers, one set per watched namespace, and an overlay of our own pod writes.
import { labels } from "../../crds/common.ts";
import { hasCode } from "./errors.ts";
import { type CopyForm, Informer, type InformerDeps, type Listener } from "./informer.ts";
import { type KubeObject, keyOf, type Ref, type Resource, resources } from "./kube.ts";
import { slimPod } from "./slim-pod.ts";

export const authorityComponent = "authority";

/** `unknown` until the cluster answers, `forbidden` where we may not list. */
export type Served = "served" | "absent" | "forbidden" | "unknown";

export type Watched =
  | "moeDeployments"
  | "moeTrainingJobs"
  | "trainingPods"
  | "trainingSecrets"
  | "pods"
  | "deployments"
  | "jobs"
  | "services"
  | "secrets"
  | "authorities"
  | "serviceAccounts"
  | "configMaps"
  | "podDisruptionBudgets"
  | "controllerRevisions"
  | "networkPolicies"
  | "horizontalPodAutoscalers"
  | "coschedulingPodGroups"
  | "volcanoPodGroups"
  | "trainingCoschedulingPodGroups"
  | "trainingVolcanoPodGroups"
  | "httpRoutes"
  | "nodes";

const ours = { labelSelector: labels.deployment };
const ofJobs = { labelSelector: labels.trainingJob, training: true } as const;
/**
 * `own`: only in the operator's namespace. `training`: serving does not need it. `optional`: a cluster may lack it. `wakes`: its changes
 * wake its owner.
 */
const watched: Readonly<
  Record<Watched, { resource: Resource; labelSelector?: string; own?: true; training?: true; optional?: true; wakes?: true }>
> = {
  moeDeployments: { resource: resources.moeDeployments },
  pods: { resource: resources.pods, ...ours, wakes: true },
  moeTrainingJobs: { resource: resources.moeTrainingJobs, training: true },
  trainingPods: { resource: resources.pods, ...ofJobs, wakes: true },
  trainingSecrets: { resource: resources.secrets, ...ofJobs, wakes: true },
  deployments: { resource: resources.deployments, ...ours, wakes: true },
  jobs: { resource: resources.jobs, ...ours, wakes: true },
  services: { resource: resources.services, ...ours, wakes: true },
  secrets: { resource: resources.secrets, ...ours, wakes: true },
  authorities: { resource: resources.secrets, labelSelector: `${labels.component}=${authorityComponent}`, own: true },
  serviceAccounts: { resource: resources.serviceAccounts, ...ours, wakes: true },
  configMaps: { resource: resources.configMaps, ...ours, wakes: true },
  podDisruptionBudgets: { resource: resources.podDisruptionBudgets, ...ours, wakes: true },
  controllerRevisions: { resource: resources.controllerRevisions, ...ours },
  networkPolicies: { resource: resources.networkPolicies, ...ours, wakes: true },
  horizontalPodAutoscalers: { resource: resources.horizontalPodAutoscalers, ...ours, wakes: true },
  coschedulingPodGroups: { resource: resources.coschedulingPodGroups, ...ours, optional: true, wakes: true },
  volcanoPodGroups: { resource: resources.volcanoPodGroups, ...ours, optional: true, wakes: true },
  trainingCoschedulingPodGroups: { resource: resources.coschedulingPodGroups, ...ofJobs, optional: true, wakes: true },
  trainingVolcanoPodGroups: { resource: resources.volcanoPodGroups, ...ofJobs, optional: true, wakes: true },
  httpRoutes: { resource: resources.httpRoutes, ...ours, optional: true, wakes: true },
  nodes: { resource: resources.nodes },
};

export function wakers(label: string): Watched[] {
  const names = Object.keys(watched) as Watched[];
  return names.filter((name) => watched[name].wakes && watched[name].labelSelector === label);
}

const byOwner = (uid: string): string => `owner ${uid}`;
const byDeployment = (ref: Ref): string => `deployment ${keyOf(ref)}`;

function keysOf({ metadata: { namespace = "", labels: marks, ownerReferences = [] } }: KubeObject): string[] {
  const name = marks?.[labels.deployment];
  return [...ownerReferences.map(({ uid }) => byOwner(uid)), ...(name === undefined ? [] : [byDeployment({ namespace, name })])];
}

const formOf = (name: Watched): CopyForm => (name === "pods" ? { keysOf, slim: slimPod } : { keysOf });

export class Informers {
  /** Namespaces that are watched one by one; empty = all at once. */
  readonly namespaces: readonly string[];
  readonly #sets = new Map<Watched, Informer[]>();
  readonly #ofTraining = new Set<Informer>();
  readonly #optional = new Set<Informer>();

  constructor(namespaces: readonly string[], own: string, deps: InformerDeps) {
    this.namespaces = [...new Set(namespaces)];
    const entries = Object.entries(watched) as [Watched, (typeof watched)[Watched]][];
    for (const [name, { resource, own: here, training, optional, ...options }] of entries) {
      const scopes = here ? [own] : resource.namespaced && namespaces.length > 0 ? this.namespaces : [undefined];
      const told = optional ? { ...deps, onError: untilServed(deps.onError) } : deps;
      const set = scopes.map(
        (namespace) => new Informer(resource, { ...options, ...(namespace ? { namespace } : {}) }, told, formOf(name)),
      );
      this.#sets.set(name, set);
      if (training) for (const informer of set) this.#ofTraining.add(informer);
      if (optional) for (const informer of set) this.#optional.add(informer);
    }
  }

  start(): void {
    for (const informer of this.all()) informer.start();
  }

  async stop(): Promise<void> {
    await Promise.all(this.all().map((informer) => informer.stop()));
  }

  all(): Informer[] {
    return [...this.#sets.values()].flat();
  }

  /** All but resources that the cluster lacks or denies. */
  held(): Informer[] {
    return this.all().filter(
      (informer) => !this.#optional.has(informer) || (informer.hasSynced && !informer.absent && !informer.forbidden),
    );
  }

  /** The last answer holds while the API server is away. */
  served(resource: Resource, namespace: string): Served {
    const informer = this.all().find((one) => one.resource === resource && one.follows(namespace));
    if (!informer || informer.absent) return "absent";
    if (informer.forbidden) return "forbidden";
    return informer.hasSynced ? "served" : "unknown";
  }

  get(name: Watched, ref: Ref): KubeObject | undefined {
    for (const informer of this.#of(name)) {
      const object = informer.get(ref);
      if (object) return object;
    }
    return undefined;
  }

  list(name: Watched, filter?: (object: KubeObject) => boolean): KubeObject[] {
    return this.#of(name).flatMap((informer) => informer.list(filter));
  }

  /** May include objects of a deleted namesake. */
  ofDeployment(name: Watched, ref: Ref): KubeObject[] {
    return this.#of(name).flatMap((informer) => informer.find(byDeployment(ref)));
  }

  ownedBy(name: Watched, uid: string): KubeObject[] {
    return this.#of(name).flatMap((informer) => informer.find(byOwner(uid)));
  }

  onChange(name: Watched, listener: Listener): () => void {
    const stops = this.#of(name).map((informer) => informer.onChange(listener));
    return () => {
      for (const stop of stops) stop();
    };
  }

  /** A namespace that cannot be listed does not fail the rest. */
  async refresh(): Promise<void> {
    await Promise.all(this.all().map((informer) => informer.refresh()));
  }

  /** Why nothing in a namespace may be acted on: its copy, or that of nodes, is unreliable. */
  trouble(namespace: string): string | undefined {
    return this.#troubleOf((informer) => informer.follows(namespace) && !this.#ofTraining.has(informer));
  }

  trainingTrouble(namespace?: string): string | undefined {
    if (namespace !== undefined) return this.#troubleOf((informer) => informer.follows(namespace));
    const served = ({ namespace: scope }: Informer) => (scope === undefined ? this.commonTrouble() : this.trouble(scope)) === undefined;
    return this.#troubleOf((informer) => this.#ofTraining.has(informer) && served(informer));
  }

  /** Trouble of every namespace: cluster resources, CAs, or the one watch of all. */
  commonTrouble(): string | undefined {
    const common = (informer: Informer) => informer.namespace === undefined || this.#of("authorities").includes(informer);
    return this.#troubleOf((informer) => common(informer) && !this.#ofTraining.has(informer));
  }

  /** If false, pods count by their own status. */
  get seesNodes(): boolean {
    return this.#of("nodes").every((informer) => !informer.forbidden);
  }

  #troubleOf(concerns: (informer: Informer) => boolean): string | undefined {
    const spared = [...(this.seesNodes ? [] : this.#of("nodes")), ...this.#optional];
    for (const informer of this.all())
      if (informer.trouble !== undefined && !spared.includes(informer) && concerns(informer)) return informer.trouble;
    return undefined;
  }

  watches(namespace: string): boolean {
    return this.namespaces.length === 0 || this.namespaces.includes(namespace);
  }

  live(resource: Resource, ref: Ref): KubeObject | undefined {
    for (const name of Object.keys(watched) as Watched[]) {
      const found = watched[name].resource === resource && !watched[name].own ? this.get(name, ref) : undefined;
      if (found) return found;
    }
    return undefined;
  }

  /** The copy holds every write up to this object's version. */
  covers(name: Watched, object: KubeObject): boolean {
    return this.#of(name).some((informer) => informer.follows(object.metadata.namespace) && versionOf(informer.version) >= version(object));
  }

  #of(name: Watched): Informer[] {
    return this.#sets.get(name) ?? [];
  }
}

/** operator/gangs/index.ts and operator/deployment/core/route.ts report missing resources. */
function untilServed(onError: InformerDeps["onError"]): (error: unknown) => void {
  return (error) => {
    if (!hasCode(error, "NotFound", "Forbidden")) onError?.(error);
  };
}

const overlayMs = 600_000;

/** Our own pod writes on top of the cache: without them a reconcile right after a create would create the rank again. */
export class PodOverlay {
  readonly #written = new Map<string, { object: KubeObject; at: number }>();
  readonly #gone = new Map<string, number>();
  readonly #covers: (object: KubeObject) => boolean;
  readonly #now: () => number;

  /** `covers`: the cache has seen this write, and so all before it. */
  constructor(covers: (object: KubeObject) => boolean, now: () => number) {
    this.#covers = covers;
    this.#now = now;
  }

  wrote(object: KubeObject): void {
    this.#written.set(object.metadata.uid ?? "", { object, at: this.#now() });
  }

  removed(uid: string): void {
    this.#written.delete(uid);
    this.#gone.set(uid, this.#now());
  }

  merge(cached: readonly KubeObject[], owns: (object: KubeObject) => boolean): KubeObject[] {
    const since = this.#now() - overlayMs;
    for (const [uid, at] of this.#gone) if (at < since) this.#gone.delete(uid);
    for (const [uid, { object, at }] of this.#written) if (at < since || this.#covers(object)) this.#written.delete(uid);
    const out = new Map(cached.map((object) => [object.metadata.uid ?? "", object]));
    for (const [uid, { object }] of this.#written) if (owns(object)) out.set(uid, object);
    for (const uid of this.#gone.keys()) out.delete(uid);
    return [...out.values()];
  }
}

const version = (object: KubeObject): bigint => versionOf(object.metadata.resourceVersion ?? "");

function versionOf(text: string): bigint {
  return /^\d+$/.test(text) ? BigInt(text) : 0n;
}
