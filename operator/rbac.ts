// What the operator may do in the cluster: the single source of the chart's ClusterRole (npm run gen) and of its test. Pure.
// Namespaced leases and events are here too, since both replicas write them wherever deployments live.

export interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  /** Why; printed above the rule. */
  readonly why: string;
}

const read = ["get", "list", "watch"];

export const operatorRules: readonly Rule[] = [
  { apiGroups: ["enodia.dev"], resources: ["moedeployments"], verbs: read, why: "what is wanted" },
  { apiGroups: ["enodia.dev"], resources: ["moedeployments/status"], verbs: ["get", "update", "patch"], why: "what was observed" },
  { apiGroups: ["enodia.dev"], resources: ["moedeployments/finalizers"], verbs: ["update"], why: "owner references that block deletion" },
  {
    apiGroups: ["enodia.dev"],
    resources: ["expertplacements"],
    verbs: [...read, "create", "update", "patch", "delete"],
    why: "the durable plan",
  },
  { apiGroups: ["enodia.dev"], resources: ["expertplacements/status"], verbs: ["get", "update", "patch"], why: "how far the plan is" },
  { apiGroups: [""], resources: ["pods"], verbs: [...read, "create", "patch", "delete"], why: "workers, one pod per rank" },
  {
    apiGroups: [""],
    resources: ["services", "serviceaccounts", "secrets"],
    verbs: [...read, "create", "patch"],
    why: "what the pods need: addresses, an identity without a token, certificates; NATS credentials are read",
  },
  { apiGroups: [""], resources: ["persistentvolumeclaims"], verbs: ["get"], why: "whether the model's claim is there" },
  { apiGroups: [""], resources: ["nodes"], verbs: read, why: "which workers are lost with their node" },
  { apiGroups: ["apps"], resources: ["deployments"], verbs: [...read, "create", "patch"], why: "gateways" },
  { apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: [...read, "create", "patch"], why: "one rank at a time" },
  { apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get", "create", "update"], why: "leader election" },
  { apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create", "patch"], why: "events" },
];
