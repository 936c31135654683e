// One row for each kind of object: its API, the copies that informers keep of it, and the operator's rights.
import { apiVersion as enodiaApi, labels } from "../../crds/common.ts";

export interface Resource {
  readonly apiVersion: string;
  readonly kind: string;
  readonly plural: string;
  readonly namespaced: boolean;
}

/** Objects that an informer copies. */
export interface Watch {
  readonly labelSelector?: string;
  /** Changes wake the owner, which the label of the selector names. */
  readonly wakes?: true;
  /** Only in the operator's namespace. */
  readonly own?: true;
  /** Serving does not need it. */
  readonly training?: true;
  /** A cluster may lack the API. */
  readonly optional?: true;
}

/** `watched`: namespaces with deployments, all by default; cluster: objects without a namespace; release: the operator's namespace. */
export type Scope = "watched" | "cluster" | "release";

/** A rule of the chart's roles. Rights of several kinds with the same `why` are one rule. */
export interface Right {
  /** Unset = watched. */
  readonly scope?: Scope;
  readonly subresource?: string;
  /** Unset = all objects. */
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
  /** The chart's value that enables the rule; unset = always. */
  readonly option?: "rbac.podGroups" | "rbac.httpRoutes" | "page.enabled";
  /** Printed above the rule. */
  readonly why: string;
}

interface Row extends Resource {
  /** The keys are names of copies. */
  readonly watches?: Readonly<Record<string, Watch>>;
  readonly rights?: readonly Right[];
}

export const authorityComponent = "authority";

const ours = { labelSelector: labels.deployment, wakes: true } as const satisfies Watch;
const ofJobs = { labelSelector: labels.trainingJob, wakes: true } as const satisfies Watch;

const read = ["get", "list", "watch"];
const write = [...read, "create", "patch"];
const all = [...write, "delete"];

const needed: Right = {
  verbs: write,
  why: "what the pods need: addresses, an identity without a token, certificates, settings; NATS credentials are read",
};
const gangs: Right = {
  verbs: all,
  option: "rbac.podGroups",
  why: "ranks that start together, where such a scheduler is installed; deleted when they do not",
};

const of = (apiVersion: string, kind: string, plural: string): Resource => ({ apiVersion, kind, plural, namespaced: true });
const core = (kind: string, plural: string): Resource => of("v1", kind, plural);

/** The name of the install in the chart's template. */
export const installName = '{{ include "enodia.fullname" $ }}';

/** The rules of the roles are in this order. */
const table = {
  moeDeployments: {
    ...of(enodiaApi, "MoEDeployment", "moedeployments"),
    watches: { moeDeployments: {} },
    rights: [
      { verbs: read, why: "what is wanted" },
      { subresource: "status", verbs: ["patch"], why: "what was observed" },
      { subresource: "scale", verbs: ["patch"], why: "replicas, where the spec asks for autoscaling" },
      {
        verbs: ["patch"],
        why: "replicas that nobody has set, which /scale leaves without a name on them; green deployments that are to stop",
      },
      { verbs: ["create", "delete"], why: "green deployments, which serve while a deployment changes its model" },
      { subresource: "finalizers", verbs: ["update"], why: "owner references that block deletion" },
    ],
  },
  moeTrainingJobs: {
    ...of(enodiaApi, "MoETrainingJob", "moetrainingjobs"),
    watches: { moeTrainingJobs: { training: true } },
    rights: [
      { verbs: read, why: "what is to be trained" },
      { subresource: "status", verbs: ["patch"], why: "how far it is" },
      { subresource: "finalizers", verbs: ["update"], why: "the same of their pods" },
    ],
  },
  expertPlacements: {
    ...of(enodiaApi, "ExpertPlacement", "expertplacements"),
    rights: [
      { verbs: ["get", "create", "update"], why: "the durable plan" },
      { subresource: "status", verbs: ["patch"], why: "how far the plan is" },
    ],
  },
  pods: {
    ...core("Pod", "pods"),
    watches: { pods: ours, trainingPods: { ...ofJobs, training: true } },
    rights: [{ verbs: all, why: "workers, one pod per rank, and pods that train" }],
  },
  services: {
    ...core("Service", "services"),
    watches: { services: ours },
    rights: [needed, { verbs: ["delete"], why: "that of a weight server that is not wanted any more" }],
  },
  serviceAccounts: { ...core("ServiceAccount", "serviceaccounts"), watches: { serviceAccounts: ours }, rights: [needed] },
  secrets: {
    ...core("Secret", "secrets"),
    watches: { secrets: ours, trainingSecrets: { ...ofJobs, training: true } },
    rights: [needed],
  },
  configMaps: { ...core("ConfigMap", "configmaps"), watches: { configMaps: ours }, rights: [needed] },
  persistentVolumeClaims: {
    ...core("PersistentVolumeClaim", "persistentvolumeclaims"),
    rights: [{ verbs: ["get"], why: "whether the model's claim is there, and on how many nodes it can be mounted" }],
  },
  namespaces: { ...core("Namespace", "namespaces"), namespaced: false },
  roleBindings: of("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
  nodes: {
    ...core("Node", "nodes"),
    namespaced: false,
    watches: { nodes: {} },
    rights: [{ scope: "cluster", verbs: read, why: "which workers are lost with their node" }],
  },
  deployments: {
    ...of("apps/v1", "Deployment", "deployments"),
    watches: { deployments: ours },
    rights: [{ verbs: all, why: "gateways and weight servers; a weight server is deleted when it is not wanted any more" }],
  },
  controllerRevisions: {
    ...of("apps/v1", "ControllerRevision", "controllerrevisions"),
    watches: { controllerRevisions: { labelSelector: labels.deployment } },
    rights: [
      {
        verbs: ["list", "watch", "create", "delete"],
        why: "the last accepted spec, by which lost ranks are replaced while another is refused",
      },
    ],
  },
  jobs: {
    ...of("batch/v1", "Job", "jobs"),
    watches: { jobs: ours },
    rights: [{ verbs: [...read, "create", "delete"], why: "the download of a model into its cache" }],
  },
  podDisruptionBudgets: {
    ...of("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    watches: { podDisruptionBudgets: ours },
    rights: [{ verbs: write, why: "one rank at a time" }],
  },
  networkPolicies: {
    ...of("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    watches: { networkPolicies: ours, trainingPolicies: { ...ofJobs, training: true } },
    rights: [{ verbs: all, why: "who reaches ranks, gateways and training pods; deleted when they are switched off" }],
  },
  horizontalPodAutoscalers: {
    ...of("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    watches: { horizontalPodAutoscalers: ours },
    rights: [
      {
        verbs: all,
        why: "autoscaling of gateways; deleted when it is not wanted; read to know whether another one still sets their number",
      },
    ],
  },
  coschedulingPodGroups: {
    ...of("scheduling.x-k8s.io/v1alpha1", "PodGroup", "podgroups"),
    watches: { coschedulingPodGroups: { ...ours, optional: true }, trainingCoschedulingPodGroups: { ...ofJobs, optional: true } },
    rights: [gangs],
  },
  volcanoPodGroups: {
    ...of("scheduling.volcano.sh/v1beta1", "PodGroup", "podgroups"),
    watches: { volcanoPodGroups: { ...ours, optional: true }, trainingVolcanoPodGroups: { ...ofJobs, optional: true } },
    rights: [gangs],
  },
  httpRoutes: {
    ...of("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"),
    watches: { httpRoutes: { ...ours, optional: true } },
    rights: [
      {
        verbs: all,
        option: "rbac.httpRoutes",
        why: "by which Gateways clients come in, where the Gateway API is installed; deleted when that is not wanted",
      },
    ],
  },
  leases: {
    ...of("coordination.k8s.io/v1", "Lease", "leases"),
    rights: [
      // A right to create cannot be bound to a name.
      { verbs: ["create"], why: "which install works in a namespace" },
      { resourceNames: ["enodia-claim"], verbs: ["get", "update"], why: "the same, by one name only" },
      { scope: "release", verbs: ["get", "create", "update"], why: "leader election" },
    ],
  },
  clusterRoles: {
    ...of("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    namespaced: false,
    rights: [
      { scope: "cluster", resourceNames: [installName], verbs: ["get"], why: "its own, which owns the leases, so that they go with it" },
    ],
  },
  events: {
    ...of("events.k8s.io/v1", "Event", "events"),
    rights: [{ verbs: ["create", "patch"], why: "events on deployments and training jobs" }],
  },
  warnings: {
    ...core("Event", "events"),
    rights: [{ verbs: ["list"], option: "page.enabled", why: "warnings, of which the page tells" }],
  },
  customResourceDefinitions: {
    ...of("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
    namespaced: false,
  },
  /** Secrets of the operator's namespace. */
  authorities: {
    ...core("Secret", "secrets"),
    watches: { authorities: { labelSelector: `${labels.component}=${authorityComponent}`, own: true } },
    rights: [
      {
        scope: "release",
        verbs: [...read, "create", "update", "delete"],
        why: "the CA of each deployment, whose key nobody beside its pods is to reach",
      },
    ],
  },
} as const satisfies Record<string, Row>;

type Table = typeof table;

export const resources: Readonly<Record<keyof Table, Row>> = table;
export const rows: readonly Row[] = Object.values(resources);

type WatchesOf<R> = R extends { readonly watches: infer W } ? keyof W & string : never;
/** The name of a copy. */
export type Watched = { [K in keyof Table]: WatchesOf<Table[K]> }[keyof Table];
