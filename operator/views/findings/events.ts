// Findings from warning events that no pod shows, such as a volume that cannot be mounted, and from what has been silent for too long.
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { ago, span } from "../format.ts";
import type { Finding, Observed, SeenDeployment, Subject, WarningEvent } from "./finding.ts";

/** A cause that persists would have been repeated. */
export const recentMs = 10 * 60_000;
const perSubjectMax = 4;
/** Pods and conditions report these with more detail. */
const reportedElsewhere = ["BackOff", "Failed", "FailedScheduling", "Unhealthy", "FailedKillPod", "NodeNotReady", "TaintManagerEviction"];
/** These hold a pod up before it starts: once it runs they are over, and what the first retry mended is none. */
const beforeStart = ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"];
/** The operator's events about conditions begin like this. */
const ofCondition = /^\w+=(True|False|Unknown): /;
const kinds: Readonly<Record<string, Subject["kind"]>> = { MoEDeployment: "moed", MoETrainingJob: "moet", ExpertPlacement: "moed" };

export function eventFindings({ events, pods, now, deployments, jobs }: Observed): Finding[] {
  const seen = new Set([
    ...deployments.map(({ deployment: { metadata } }) => `moed ${metadata.namespace}/${metadata.name}`),
    ...jobs.map(({ metadata }) => `moet ${metadata.namespace}/${metadata.name}`),
  ]);
  const subjectOf = ({ kind, namespace, name, reason, count }: WarningEvent): Subject | undefined => {
    const own = kinds[kind];
    if (own) return { kind: own, namespace, name };
    const pod = kind === "Pod" ? pods.find((each) => each.namespace === namespace && each.name === name && !each.terminating) : undefined;
    if (beforeStart.includes(reason) && ((count < 2 && reason === "FailedMount") || pod?.ready || pod?.phase === "Running"))
      return undefined;
    return pod && { kind: pod.component === "training" ? "moet" : "moed", namespace, name: pod.owner };
  };
  const newest = new Map<string, Finding[]>();
  for (const event of events.toSorted((a, b) => b.lastAt.getTime() - a.lastAt.getTime())) {
    const subject = subjectOf(event);
    const key = subject && `${subject.kind} ${subject.namespace}/${subject.name}`;
    const known = reportedElsewhere.includes(event.reason) || ofCondition.test(event.message);
    if (!key || !seen.has(key) || known || now.getTime() - event.lastAt.getTime() > recentMs) continue;
    const found = newest.get(key) ?? [];
    if (found.length >= perSubjectMax || found.some(({ code }) => code === event.reason)) continue;
    newest.set(key, [...found, findingOf(event, subject, now)]);
  }
  return [...newest.values()].flat();
}

function findingOf(event: WarningEvent, subject: Subject, now: Date): Finding {
  const { kind, namespace, name, reason, message, count } = event;
  const resource = kind === "Pod" ? "pod" : subject.kind;
  const times = count > 1 ? `${count} times, ` : "";
  return {
    ...subject,
    severity: "warning",
    code: reason,
    role: kind === "Pod" ? "cause" : "aside",
    what: `${resource} ${name}: ${reason}`,
    why: `${message} (${times}${ago(event.lastAt, now)})`,
    remedy: `kubectl -n ${namespace} describe ${resource} ${name}`,
  };
}

/** An operator observes a change within seconds. */
const unseenMs = 30_000;
/** The operator ends a plan soon after its deadline. */
const overdueMs = 60_000;

const finding = ({ metadata }: MoEDeployment, of: Omit<Finding, "kind" | "namespace" | "name">): Finding => ({
  kind: "moed",
  namespace: metadata.namespace,
  name: metadata.name,
  ...of,
});

export function unseenFindings({ deployments, now }: Observed): Finding[] {
  return deployments.flatMap(({ deployment, changedAt }) => {
    const { generation } = deployment.metadata;
    const seen = deployment.status.observedGeneration;
    if (seen === generation || changedAt === undefined || now.getTime() - changedAt.getTime() < unseenMs) return [];
    const known = seen === undefined ? "no operator has ever looked at it" : `the operator has looked at generation ${seen} last`;
    return finding(deployment, {
      severity: "critical",
      code: "NotObserved",
      role: "cause",
      what: "nobody acts on its spec",
      why: `generation ${generation} is there since ${span(now.getTime() - changedAt.getTime())}, and ${known}: none leads, or none watches the namespace`,
      remedy: "enodia doctor",
    });
  });
}

export function overdueFindings({ deployments, now }: Observed): Finding[] {
  return deployments.flatMap((seen) => overdue(seen, now));
}

function overdue({ deployment, placement }: SeenDeployment, now: Date): Finding[] {
  const { phase, deadline } = placement?.status ?? {};
  if (deadline === undefined || (phase !== "Preparing" && phase !== "Committing" && phase !== "Releasing")) return [];
  const late = now.getTime() - Date.parse(deadline);
  if (late < overdueMs) return [];
  const { name, namespace } = deployment.metadata;
  return [
    finding(deployment, {
      severity: "warning",
      code: "PlanOverdue",
      role: "aside",
      what: `plan ${placement?.spec.epoch} is past its deadline`,
      why: `it is ${phase}, and should have been committed or rolled back ${ago(new Date(deadline), now)}`,
      remedy: `enodia plan explain ${name} -n ${namespace}`,
    }),
  ];
}
