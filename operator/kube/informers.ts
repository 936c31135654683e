// The operator's informers, one set per watched namespace, and an overlay of our own pod writes.
import { labels } from "../../crds/common.ts";
import { modelVolume, workerProcess } from "../../crds/process.ts";
import { hasCode } from "./errors.ts";
import { type CopyForm, Informer, type InformerDeps, type Listener } from "./informer.ts";
import { type KubeObject, keyOf, type ListOptions, type Ref, type Resource } from "./kube.ts";
import { rows, type Watch, type Watched } from "./resources.ts";

/** `unknown` until the cluster answers, `forbidden` where we may not list. */
export type Served = "served" | "absent" | "forbidden" | "unknown";

const watched = rows.flatMap((resource) =>
  Object.entries(resource.watches ?? {}).map(([name, watch]) => ({ name: name as Watched, resource, watch })),
);

export function wakers(label: string): Watched[] {
  return watched.filter(({ watch }) => watch.wakes && watch.labelSelector === label).map(({ name }) => name);
}

interface Named {
  readonly name: string;
}
interface Container extends Named {
  readonly image?: string;
  readonly resources?: { readonly limits?: { readonly memory?: string } };
  readonly env?: readonly Named[];
}
interface PodSpec {
  readonly nodeName?: string;
  readonly schedulerName?: string;
  readonly schedulingGates?: unknown;
  readonly tolerations?: unknown;
  readonly containers?: readonly Container[];
  readonly volumes?: readonly (Named & { readonly persistentVolumeClaim?: { readonly claimName: string } })[];
}

/** What operator/deployment reads: own-pods.ts and pod-facts.ts of observe/, and objects/model-place.ts. */
const variables: ReadonlySet<string> = new Set(
  [
    workerProcess.deploymentUid,
    workerProcess.modelDir,
    workerProcess.codec,
    workerProcess.telemetryWindowMs,
    workerProcess.oversubscription,
  ].map(({ variable }) => variable),
);

const slimContainer = ({ name, image, env = [], resources: { limits: { memory } = {} } = {} }: Container): Container => ({
  name,
  ...(image === undefined ? {} : { image }),
  ...(memory === undefined ? {} : { resources: { limits: { memory } } }),
  env: env.filter((one) => variables.has(one.name)),
});

/** Drops the parts of a pod's spec that the operator does not read. */
export function slimPod(pod: KubeObject): KubeObject {
  const { apiVersion, kind, metadata, status } = pod;
  const { nodeName, schedulerName, schedulingGates, tolerations, containers = [], volumes = [] } = (pod.spec ?? {}) as PodSpec;
  return {
    apiVersion,
    kind,
    metadata,
    status,
    spec: {
      ...(nodeName === undefined ? {} : { nodeName }),
      ...(schedulerName === undefined ? {} : { schedulerName }),
      ...(schedulingGates === undefined ? {} : { schedulingGates }),
      ...(tolerations === undefined ? {} : { tolerations }),
      containers: containers.map(slimContainer),
      volumes: volumes.filter(({ name }) => name === modelVolume),
    },
  };
}

const byOwner = (uid: string): string => `owner ${uid}`;
const byDeployment = (ref: Ref): string => `deployment ${keyOf(ref)}`;

const byClaim = (ref: Ref): string => `claim ${keyOf(ref)}`;

function podKeysOf(pod: KubeObject): string[] {
  const { namespace = "" } = pod.metadata;
  const { volumes = [] } = (pod.spec ?? {}) as PodSpec;
  const claims = volumes.flatMap((one) => one.persistentVolumeClaim?.claimName ?? []);
  return [...keysOf(pod), ...claims.map((name) => byClaim({ namespace, name }))];
}

function keysOf({ metadata: { namespace = "", labels: marks, ownerReferences = [] } }: KubeObject): string[] {
  const name = marks?.[labels.deployment];
  return [...ownerReferences.map(({ uid }) => byOwner(uid)), ...(name === undefined ? [] : [byDeployment({ namespace, name })])];
}

const forms: Partial<Record<Watched, CopyForm>> = {
  pods: { keysOf: podKeysOf, slim: slimPod },
  trainingPods: { keysOf: podKeysOf },
  moeDeployments: { keysOf, keepsManagers: true },
};

const scopeOf = ({ labelSelector }: Watch, namespace: string | undefined): ListOptions => ({
  ...(labelSelector === undefined ? {} : { labelSelector }),
  ...(namespace ? { namespace } : {}),
});

export class Informers {
  /** Namespaces that are watched one by one; empty = all at once. */
  readonly namespaces: readonly string[];
  readonly #sets = new Map<Watched, Informer[]>();
  readonly #ofTraining = new Set<Informer>();
  readonly #optional = new Set<Informer>();

  constructor(namespaces: readonly string[], own: string, deps: InformerDeps) {
    this.namespaces = [...new Set(namespaces)];
    for (const { name, resource, watch } of watched) {
      const scopes = watch.own ? [own] : resource.namespaced && namespaces.length > 0 ? this.namespaces : [undefined];
      const reporting = watch.optional ? { ...deps, onError: untilServed(deps.onError) } : deps;
      const set = scopes.map((namespace) => new Informer(resource, scopeOf(watch, namespace), reporting, forms[name] ?? { keysOf }));
      this.#sets.set(name, set);
      if (watch.training) for (const informer of set) this.#ofTraining.add(informer);
      if (watch.optional) for (const informer of set) this.#optional.add(informer);
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

  /** Those with the deployment's label or an owner reference to it; may include objects of a deleted namesake. */
  related(name: Watched, { uid, ...ref }: Ref & { readonly uid: string }): KubeObject[] {
    return this.#of(name).flatMap((informer) => [...new Set([...informer.find(byDeployment(ref)), ...informer.find(byOwner(uid))])]);
  }

  /** Pods of deployments that mount the claim as their model's, and pods of training jobs that mount it. */
  mounting(claim: Ref): KubeObject[] {
    return [...this.#of("pods"), ...this.#of("trainingPods")].flatMap((informer) => informer.find(byClaim(claim)));
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

  /** What may not be read in a namespace that is watched by name; undefined where nothing is refused. */
  forbidden(namespace: string): string | undefined {
    const refused = ({ namespace: of, forbidden }: Informer) => of === namespace && forbidden;
    return this.all().find((informer) => refused(informer) && !this.#optional.has(informer))?.trouble;
  }

  watches(namespace: string): boolean {
    return this.namespaces.length === 0 || this.namespaces.includes(namespace);
  }

  live(resource: Resource, ref: Ref): KubeObject | undefined {
    const copies = watched.filter((copy) => copy.resource === resource && !copy.watch.own);
    return copies.map(({ name }) => this.get(name, ref)).find((object) => object !== undefined);
  }

  /** The copy holds every write up to this object's version. */
  covers(name: Watched, object: KubeObject): boolean {
    return this.#of(name).some((informer) => informer.follows(object.metadata.namespace) && versionOf(informer.version) >= version(object));
  }

  #of(name: Watched): Informer[] {
    return this.#sets.get(name) ?? [];
  }
}

/** operator/gangs/index.ts and operator/deployment/features/route.ts report missing resources. */
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
