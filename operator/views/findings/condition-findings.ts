// Findings from the conditions of a MoEDeployment, with a remedy for each reason, and from those of a MoETrainingJob.
import type { Condition } from "../../../crds/conditions.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { MoEDeploymentConditionType } from "../../../crds/moe-deployment-status.ts";
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import { endsOfSpec } from "../../../crds/process-end.ts";
import { idleReasons } from "../health.ts";
import type { Finding, Observed } from "./finding.ts";

interface Judged {
  readonly severity: Finding["severity"];
  readonly role: Finding["role"];
  readonly what: string;
}
type Judge = (condition: Condition, deployment: MoEDeployment) => Judged | undefined;

const when = (wrong: boolean, judged: Judged): Judged | undefined => (wrong ? judged : undefined);
const isFalse = ({ status }: Condition): boolean => status === "False";

/** In order of output within one severity. */
const judges: Readonly<Record<MoEDeploymentConditionType, Judge>> = {
  SpecAccepted: (c) => when(isFalse(c), { severity: "warning", role: "cause", what: "its spec is refused" }),
  ModelAvailable: (c) =>
    when(isFalse(c) && !idleReasons.includes(c.reason), {
      severity: "warning",
      role: c.reason === "WeightServerNotReady" ? "effect" : "cause", // its pod says why
      what: c.reason === "Downloading" ? "the model is being downloaded" : "the model cannot be used",
    }),
  Available: (c) => when(isFalse(c) && !idleReasons.includes(c.reason), { severity: "critical", role: "effect", what: "does not serve" }),
  Ready: (c) => when(isFalse(c) && !idleReasons.includes(c.reason), { severity: "warning", role: "effect", what: "is not ready" }),
  Degraded: (c) =>
    when(c.status === "True", {
      severity: "warning",
      role: c.reason === "ReplacementImpossible" ? "cause" : "effect",
      what: c.reason === "ReplacementImpossible" ? "lost ranks cannot be replaced" : "is degraded",
    }),
  Progressing: (c) =>
    when(isFalse(c) && c.reason !== "Converged", {
      severity: "warning",
      role: c.reason === "DeadlineExceeded" ? "effect" : "cause",
      what: c.reason === "DeadlineExceeded" ? "a change takes longer than elasticity.operationTimeout" : "a change is held up",
    }),
  FieldConflict: (c) => when(c.status === "True", { severity: "warning", role: "aside", what: "somebody else manages a field" }),
  TelemetryFresh: (c) => when(isFalse(c), { severity: "warning", role: "aside", what: "no load is heard, so nothing is balanced" }),
  PlacementBalanced: (c, { status }) => {
    const ready = status.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True") ?? false;
    if (c.status === "Unknown")
      return when(!ready && c.reason === "InsufficientExpertMemory", {
        severity: "warning",
        role: "cause",
        what: "the experts do not fit into the ranks",
      });
    return when(isFalse(c) && c.reason !== "Rebalancing", { severity: "info", role: "aside", what: "the load is uneven" });
  },
  ExpertsOversubscribed: (c) =>
    when(c.status === "True", { severity: "info", role: "aside", what: "tokens wait for experts that memory does not hold" }),
  RolesServed: (c) => when(isFalse(c), { severity: "warning", role: "aside", what: "fewer ranks serve than have a role" }),
  ScalingActive: (c) =>
    when(isFalse(c) && !idleReasons.includes(c.reason), { severity: "warning", role: "aside", what: "the autoscaler stands still" }),
  // A missing Gateway never reports anything.
  GatewayRouted: (c) =>
    when(isFalse(c) || c.reason === "GatewayUnanswered", {
      severity: "warning",
      role: "aside",
      what: "clients do not come in by the Gateway",
    }),
  Reproducible: (c) => when(isFalse(c), { severity: "info", role: "aside", what: "texts may differ between ranks" }),
  RuntimeUpToDate: (c) => when(isFalse(c), { severity: "info", role: "aside", what: "another runtime image is available" }),
};

export function conditionFindings({ deployments }: Observed): Finding[] {
  return deployments.flatMap(({ deployment }) => ofDeployment(deployment));
}

function ofDeployment(deployment: MoEDeployment): Finding[] {
  const { namespace, name } = deployment.metadata;
  const conditions = deployment.status.conditions ?? [];
  // Conditions repeat the message of the one that they follow; only the first is a finding.
  const reported: string[] = [];
  return Object.entries(judges).flatMap(([type, judge]) => {
    const condition = conditions.find((one) => one.type === type);
    const judged = condition && judge(condition, deployment);
    if (!condition || !judged || repeats(condition, judged, reported)) return [];
    if (condition.message !== "") reported.push(condition.message);
    const why = `${condition.reason}: ${condition.message}`;
    return [{ kind: "moed", namespace, name, code: condition.reason, ...judged, why, remedy: remedyOf(condition, deployment) } as const];
  });
}

/** An effect is dropped only with the same message. */
const repeats = ({ message }: Condition, { role }: Judged, reported: readonly string[]): boolean =>
  reported.some((one) => (role === "effect" ? message === one : message.includes(one)));

type Remedy = (deployment: MoEDeployment, at: string) => string;
const edit: Remedy = ({ metadata }, at) => `kubectl ${at} edit moed ${metadata.name}`;
const describe: Remedy = ({ metadata }, at) => `kubectl ${at} describe moed ${metadata.name}`;
const podsOf =
  (component: string): Remedy =>
  ({ metadata }, at) =>
    `kubectl ${at} get pods -l enodia.dev/deployment=${metadata.name},enodia.dev/component=${component}`;
const logsOf =
  (component: string): Remedy =>
  ({ metadata }) =>
    `enodia logs ${metadata.name} -n ${metadata.namespace} --component ${component}`;
const patch = ({ metadata }: MoEDeployment, at: string, spec: object): string =>
  `kubectl ${at} patch moed ${metadata.name} --type=merge -p '${JSON.stringify({ spec }).replaceAll("'", "'\\''")}'`;

const rollout =
  (verb: string): Remedy =>
  ({ metadata }) =>
    `enodia rollout ${verb} ${metadata.name} -n ${metadata.namespace}`;

const push: Remedy = (deployment, at) => {
  const [, claim] = /^pvc:\/\/([^/]+)\//.exec(deployment.spec.model.uri) ?? [];
  if (claim === undefined) return describe(deployment, at);
  return `kubectl ${at} get pvc ${claim}   # none: enodia model push FOLDER --claim ${claim} --namespace ${deployment.metadata.namespace}`;
};
const scaleBack: Remedy = (deployment, at) => {
  const least = deployment.status.expertParallel?.leastRanks;
  return least === undefined ? edit(deployment, at) : `kubectl ${at} scale moed/${deployment.metadata.name} --replicas=${least}`;
};
const rollToAvailable: Remedy = (deployment, at) => {
  const image = deployment.status.runtimeImage?.available;
  return image === undefined ? describe(deployment, at) : patch(deployment, at, { runtimeImage: { image } });
};

/** The condition names the operator's account, too. */
const grant: Remedy = ({ metadata, status }) =>
  status.conditions?.flatMap(({ message }) => /enodia namespace grant .*/.exec(message) ?? [])[0] ??
  `enodia namespace grant ${metadata.namespace}`;

/** Keys are reasons; the default is `kubectl describe`. */
const remedies: Readonly<Record<string, Remedy>> = {
  InvalidSpec: edit,
  FieldNotSupported: edit,
  PodRefused: edit,
  InsufficientExpertMemory: edit,
  InsufficientMemoryLimit: edit,
  Oversubscribed: edit,
  ...Object.fromEntries(endsOfSpec.map((code) => [code, edit])),
  NamespaceNotGranted: grant,
  RolledBack: rollout("undo"),
  RolloutPaused: rollout("resume"),
  RolloutPartitioned: rollout("status"),
  RolloutOnDelete: rollout("status"),
  ClaimNotFound: push,
  ModelClaimMissing: push,
  WeightServerNotReady: podsOf("weight-server"),
  CacheTooSmall: edit,
  ClaimInUse: edit,
  NoGateway: podsOf("gateway"),
  BelowMinServing: podsOf("worker"),
  RanksNotReady: podsOf("worker"),
  RanksLost: podsOf("worker"),
  WorkerCrashing: logsOf("worker"),
  GatewayFailing: podsOf("gateway"),
  ScaleDownBlocked: scaleBack,
  NoCapacityForReplacement: () => "enodia doctor",
  NATSUnavailable: () => "kubectl get pods -A -l app.kubernetes.io/part-of=enodia,app.kubernetes.io/component=nats   # or your own NATS",
  Stale: logsOf("worker"),
  PartialRanks: logsOf("worker"),
  SignalsMissing: logsOf("worker"),
  AnotherImageAvailable: rollToAvailable,
  Imbalanced: ({ metadata }) => `enodia plan explain ${metadata.name} -n ${metadata.namespace}`,
  RebalanceSuppressed: ({ metadata }) => `enodia plan explain ${metadata.name} -n ${metadata.namespace}`,
};

const remedyOf = ({ reason }: Condition, deployment: MoEDeployment): string =>
  (remedies[reason] ?? describe)(deployment, `-n ${deployment.metadata.namespace}`);

/** Reasons of a job that starts, was paused or has ended. */
const onItsWay = ["Starting", "Suspended", "SpecChanged", "Replacing", "Stopped", "Complete", "Failed"];

export function jobFindings({ jobs }: Observed): Finding[] {
  return jobs.flatMap((job) => ofJob(job));
}

function ofJob({ metadata, status }: MoETrainingJob): Finding[] {
  const { namespace, name } = metadata;
  const condition = (type: string, is: string) => status.conditions?.find((one) => one.type === type && one.status === is);
  const finding = (of: Pick<Finding, "severity" | "role" | "what" | "remedy">, reason: string, message: string): Finding => ({
    kind: "moet",
    namespace,
    name,
    code: reason,
    why: `${reason}: ${message}`,
    ...of,
  });
  if (condition("Complete", "True")) return [];
  const failed = condition("Failed", "True");
  if (failed) {
    const remedy = `enodia train status ${name} -n ${namespace}`;
    return [finding({ severity: "critical", role: "cause", what: "has failed for good", remedy }, failed.reason, failed.message)];
  }
  const refused = condition("SpecAccepted", "False");
  if (refused) {
    const remedy = `kubectl -n ${namespace} edit moet ${name}`;
    return [finding({ severity: "warning", role: "cause", what: "its spec is refused", remedy }, refused.reason, refused.message)];
  }
  const waits = condition("Running", "False");
  if (!waits || onItsWay.includes(waits.reason)) return [];
  const remedy = `enodia train status ${name} -n ${namespace}`;
  return [finding({ severity: "warning", role: "effect", what: "does not train", remedy }, waits.reason, waits.message)];
}
