// The port through which the operator reaches the Kubernetes API: types only, no client.
// Adapter: client.ts; in-memory twin for tests: test/kit/kube/fake-kube.ts. Both pass test/contract/kube.ts.
import { apiVersion as enodiaApi } from "../../crds/common.ts";

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
  finalizers?: string[];
  managedFields?: unknown[];
}

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

/** Any Kubernetes object. Fields beside the metadata are parsed where they are used. */
export interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
  [field: string]: unknown;
}

export interface Resource {
  readonly apiVersion: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
}

const core = (kind: string, plural: string, namespaced = true): Resource => ({ apiVersion: "v1", kind, plural, namespaced });

/** The resources that the operator, the command line and the tests touch; operator/rbac.ts says what of them the operator may. */
export const resources = {
  moeDeployments: { apiVersion: enodiaApi, kind: "MoEDeployment", plural: "moedeployments", namespaced: true },
  expertPlacements: { apiVersion: enodiaApi, kind: "ExpertPlacement", plural: "expertplacements", namespaced: true },
  moeTrainingJobs: { apiVersion: enodiaApi, kind: "MoETrainingJob", plural: "moetrainingjobs", namespaced: true },
  pods: core("Pod", "pods"),
  services: core("Service", "services"),
  secrets: core("Secret", "secrets"),
  serviceAccounts: core("ServiceAccount", "serviceaccounts"),
  persistentVolumeClaims: core("PersistentVolumeClaim", "persistentvolumeclaims"),
  configMaps: core("ConfigMap", "configmaps"),
  namespaces: core("Namespace", "namespaces", false),
  nodes: core("Node", "nodes", false),
  deployments: { apiVersion: "apps/v1", kind: "Deployment", plural: "deployments", namespaced: true },
  jobs: { apiVersion: "batch/v1", kind: "Job", plural: "jobs", namespaced: true },
  controllerRevisions: { apiVersion: "apps/v1", kind: "ControllerRevision", plural: "controllerrevisions", namespaced: true },
  podDisruptionBudgets: { apiVersion: "policy/v1", kind: "PodDisruptionBudget", plural: "poddisruptionbudgets", namespaced: true },
  networkPolicies: { apiVersion: "networking.k8s.io/v1", kind: "NetworkPolicy", plural: "networkpolicies", namespaced: true },
  horizontalPodAutoscalers: {
    apiVersion: "autoscaling/v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    namespaced: true,
  },
  coschedulingPodGroups: { apiVersion: "scheduling.x-k8s.io/v1alpha1", kind: "PodGroup", plural: "podgroups", namespaced: true },
  volcanoPodGroups: { apiVersion: "scheduling.volcano.sh/v1beta1", kind: "PodGroup", plural: "podgroups", namespaced: true },
  httpRoutes: { apiVersion: "gateway.networking.k8s.io/v1", kind: "HTTPRoute", plural: "httproutes", namespaced: true },
  leases: { apiVersion: "coordination.k8s.io/v1", kind: "Lease", plural: "leases", namespaced: true },
  events: { apiVersion: "events.k8s.io/v1", kind: "Event", plural: "events", namespaced: true },
  customResourceDefinitions: {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    namespaced: false,
  },
} as const satisfies Record<string, Resource>;

export interface Ref {
  readonly namespace: string;
  readonly name: string;
}

export interface ListOptions {
  /** The namespace; all when it is not given. */
  readonly namespace?: string;
  readonly labelSelector?: string;
}

export interface ObjectList {
  readonly items: KubeObject[];
  readonly resourceVersion: string;
}

export type WatchEvent =
  | { readonly type: "ADDED" | "MODIFIED" | "DELETED"; readonly object: KubeObject }
  /** A bookmark brings only a newer resourceVersion to go on from. */
  | { readonly type: "BOOKMARK"; readonly resourceVersion: string };

export interface WriteOptions {
  /** Field manager; also shown in managedFields. */
  readonly manager: string;
  readonly dryRun?: boolean;
  /** Ends the request wherever it is. */
  readonly signal?: AbortSignal;
}

export interface ApplyOptions extends WriteOptions {
  /** Takes the fields in which another manager has another value; without it they make a `FieldConflict`. */
  readonly force?: boolean;
}

export interface DeleteOptions {
  /** The uid of the only object that is to be deleted, not of a later one with its name. */
  readonly uid?: string;
  readonly graceSeconds?: number;
  /** Ends the request wherever it is. */
  readonly signal?: AbortSignal;
}

/**
 * Errors are AppErrors with one of the codes NotFound, AlreadyExists, Conflict, FieldConflict (an apply that is not forced; with the
 * fields and who has them, errors.ts), Invalid (422, 400, and any other answer that judges the object by its schema), Forbidden,
 * Unauthorized, Expired (410: relist), TooManyRequests, Unavailable (no answer, 5xx).
 */
export interface Kube {
  /** The object; undefined when it is not there. */
  get(resource: Resource, ref: Ref): Promise<KubeObject | undefined>;
  /** All objects, read in pages of 500. */
  list(resource: Resource, options?: ListOptions): Promise<ObjectList>;
  /** Ends when the server ends it; throws `Expired` when the version is too old. */
  watch(
    resource: Resource,
    options: ListOptions & { readonly resourceVersion: string; readonly signal: AbortSignal },
  ): AsyncIterable<WatchEvent>;
  /** Unknown fields are refused (`Invalid`), never dropped. */
  create(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  /** Server-side apply: fields of this manager become exactly those given. What it gives up goes, unless another has it too. */
  apply(resource: Resource, object: KubeObject, options: ApplyOptions): Promise<KubeObject>;
  /** The same for the status, always forced: it is for one writer. */
  applyStatus(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  /** Replaces; `Conflict` unless metadata.resourceVersion is the current one. */
  update(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  updateStatus(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  /**
   * JSON merge patch; put metadata.uid or metadata.resourceVersion in it to make it conditional. It takes the fields that it changes
   * from whoever had them, and may replace metadata.managedFields.
   */
  patch(resource: Resource, ref: Ref, patch: object, options: WriteOptions): Promise<KubeObject>;
  /** Sets replicas through the subresource scale, as autoscalers do; `Conflict` unless the version is the current one. */
  scale(
    resource: Resource,
    ref: Ref,
    to: { readonly replicas: number; readonly resourceVersion: string },
    options: WriteOptions,
  ): Promise<void>;
  /** Returns false when it is not there (any more) or has another uid. Dependents go in the background. */
  delete(resource: Resource, ref: Ref, options?: DeleteOptions): Promise<boolean>;
}

export const keyOf = (ref: Ref): string => `${ref.namespace}/${ref.name}`;

/** The inverse of `keyOf`. */
export function parseKey(key: string): Ref {
  const slash = key.indexOf("/");
  return { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

export function refOf(object: KubeObject): Ref {
  return { namespace: object.metadata.namespace ?? "", name: object.metadata.name };
}
