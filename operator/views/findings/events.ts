// Findings from warning events that no pod shows, such as a volume that cannot be mounted.
import { ago } from "../format.ts";
import type { Finding, Observed, Subject, WarningEvent } from "./finding.ts";

/** A cause that persists would have been repeated. */
const recentMs = 10 * 60_000;
const perSubjectMax = 4;
/** Pods and conditions report these with more detail. */
const reportedElsewhere = ["BackOff", "Failed", "FailedScheduling", "Unhealthy", "FailedKillPod", "NodeNotReady", "TaintManagerEviction"];
/** The operator's events about conditions begin like this. */
const ofCondition = /^\w+=(True|False|Unknown): /;
const kinds: Readonly<Record<string, Subject["kind"]>> = { MoEDeployment: "moed", MoETrainingJob: "moet", ExpertPlacement: "moed" };

export function eventFindings({ events, pods, now, deployments, jobs }: Observed): Finding[] {
  const seen = new Set([
    ...deployments.map(({ deployment: { metadata } }) => `moed ${metadata.namespace}/${metadata.name}`),
    ...jobs.map(({ metadata }) => `moet ${metadata.namespace}/${metadata.name}`),
  ]);
  const subjectOf = ({ kind, namespace, name }: WarningEvent): Subject | undefined => {
    const own = kinds[kind];
    if (own) return { kind: own, namespace, name };
    const pod = kind === "Pod" ? pods.find((each) => each.namespace === namespace && each.name === name && !each.terminating) : undefined;
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
