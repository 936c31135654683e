// The operator's permissions: the source of the chart's roles (npm run gen) and their test. Pure.

/** `watched`: namespaces with deployments, all by default; cluster: objects without a namespace; release: the operator's namespace. */
export type Scope = "watched" | "cluster" | "release";

export interface Rule {
  readonly scope: Scope;
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  /** Unset = all objects. */
  readonly resourceNames?: readonly string[];
  readonly verbs: readonly string[];
  /** The value below `rbac` in the chart that enables the rule; unset = always. */
  readonly option?: "podGroups" | "httpRoutes";
  /** Printed above the rule. */
  readonly why: string;
}

const read = ["get", "list", "watch"];

const watchedRules: readonly Omit<Rule, "scope">[] = [
  { apiGroups: ["enodia.dev"], resources: ["moedeployments"], verbs: read, why: "what is wanted" },
  { apiGroups: ["enodia.dev"], resources: ["moedeployments/status"], verbs: ["patch"], why: "what was observed" },
  {
    apiGroups: ["enodia.dev"],
    resources: ["moedeployments/scale"],
    verbs: ["patch"],
    why: "replicas, where the spec asks for autoscaling",
  },
  {
    apiGroups: ["enodia.dev"],
    resources: ["moedeployments"],
    verbs: ["patch"],
    why: "replicas that nobody has set, which /scale leaves without a name on them; green deployments that are to stop",
  },
  {
    apiGroups: ["enodia.dev"],
    resources: ["moedeployments"],
    verbs: ["create", "delete"],
    why: "green deployments, which serve while a deployment changes its model",
  },
  { apiGroups: ["enodia.dev"], resources: ["moedeployments/finalizers"], verbs: ["update"], why: "owner references that block deletion" },
  { apiGroups: ["enodia.dev"], resources: ["moetrainingjobs"], verbs: read, why: "what is to be trained" },
  { apiGroups: ["enodia.dev"], resources: ["moetrainingjobs/status"], verbs: ["patch"], why: "how far it is" },
  { apiGroups: ["enodia.dev"], resources: ["moetrainingjobs/finalizers"], verbs: ["update"], why: "the same of their pods" },
  { apiGroups: ["enodia.dev"], resources: ["expertplacements"], verbs: ["get", "create", "update"], why: "the durable plan" },
  { apiGroups: ["enodia.dev"], resources: ["expertplacements/status"], verbs: ["patch"], why: "how far the plan is" },
  {
    apiGroups: [""],
    resources: ["pods"],
    verbs: [...read, "create", "patch", "delete"],
    why: "workers, one pod per rank, and pods that train",
  },
  {
    apiGroups: [""],
    resources: ["services", "serviceaccounts", "secrets", "configmaps"],
    verbs: [...read, "create", "patch"],
    why: "what the pods need: addresses, an identity without a token, certificates, settings; NATS credentials are read",
  },
  { apiGroups: [""], resources: ["services"], verbs: ["delete"], why: "that of a weight server that is not wanted any more" },
  {
    apiGroups: [""],
    resources: ["persistentvolumeclaims"],
    verbs: ["get"],
    why: "whether the model's claim is there, and on how many nodes it can be mounted",
  },
  {
    apiGroups: ["apps"],
    resources: ["deployments"],
    verbs: [...read, "create", "patch", "delete"],
    why: "gateways and weight servers; a weight server is deleted when it is not wanted any more",
  },
  {
    apiGroups: ["apps"],
    resources: ["controllerrevisions"],
    verbs: ["list", "watch", "create", "delete"],
    why: "the last accepted spec, by which lost ranks are replaced while another is refused",
  },
  { apiGroups: ["batch"], resources: ["jobs"], verbs: [...read, "create", "delete"], why: "the download of a model into its cache" },
  { apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: [...read, "create", "patch"], why: "one rank at a time" },
  {
    apiGroups: ["networking.k8s.io"],
    resources: ["networkpolicies"],
    verbs: [...read, "create", "patch", "delete"],
    why: "who reaches ranks and gateways; deleted when they are switched off",
  },
  {
    apiGroups: ["autoscaling"],
    resources: ["horizontalpodautoscalers"],
    verbs: [...read, "create", "patch", "delete"],
    why: "autoscaling of gateways; deleted when it is not wanted; read to know whether another one still sets their number",
  },
  {
    apiGroups: ["scheduling.x-k8s.io", "scheduling.volcano.sh"],
    resources: ["podgroups"],
    verbs: [...read, "create", "patch", "delete"],
    option: "podGroups",
    why: "ranks that start together, where such a scheduler is installed; deleted when they do not",
  },
  {
    apiGroups: ["gateway.networking.k8s.io"],
    resources: ["httproutes"],
    verbs: [...read, "create", "patch", "delete"],
    option: "httpRoutes",
    why: "by which Gateways clients come in, where the Gateway API is installed; deleted when that is not wanted",
  },
  // A right to create cannot be bound to a name.
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["create"], why: "which install works in a namespace" },
  {
    apiGroups: ["coordination.k8s.io"],
    resources: ["leases"],
    resourceNames: ["enodia-claim"],
    verbs: ["get", "update"],
    why: "the same, by one name only",
  },
  { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create", "patch"], why: "events on deployments and training jobs" },
];

export const operatorRules: readonly Rule[] = [
  ...watchedRules.map((rule) => ({ scope: "watched" as const, ...rule })),
  { scope: "cluster", apiGroups: [""], resources: ["nodes"], verbs: read, why: "which workers are lost with their node" },
  {
    scope: "release",
    apiGroups: ["coordination.k8s.io"],
    resources: ["leases"],
    verbs: ["get", "create", "update"],
    why: "leader election",
  },
  {
    scope: "release",
    apiGroups: [""],
    resources: ["secrets"],
    verbs: [...read, "create", "update", "delete"],
    why: "the CA of each deployment, whose key nobody beside its pods is to reach",
  },
];

export const rulesOf = (scope: Scope): Rule[] => operatorRules.filter((rule) => rule.scope === scope);
