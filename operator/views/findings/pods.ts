// Findings from pods: images, memory, crashes, scheduling. The same trouble of several pods is one finding.

import { certificateGate, heldByOthers, schedulingGated } from "../../../crds/pod-gates.ts";
import { readProcessEnd } from "../../../crds/process-end.ts";
import { ago, listed, span } from "../format.ts";
import type { ContainerFacts, PodFacts } from "../pods.ts";
import type { Finding, Observed, SubjectKind } from "./finding.ts";

/** An older end says nothing about now. */
const recentMs = 15 * 60_000;
/** A certificate is written within moments. */
const gatedMs = 60_000;
const podsNamedMax = 3;

interface Trouble {
  readonly code: string;
  readonly what: string;
  readonly why: string;
  readonly remedy: (pod: PodFacts) => string;
  /** The code that its process ended with. */
  readonly end?: string | undefined;
}

const at = ({ namespace }: PodFacts): string => `kubectl -n ${namespace}`;
const kindOf = ({ component }: PodFacts): SubjectKind => (component === "training" ? "moet" : "moed");
const editOwner = (pod: PodFacts): string => `${at(pod)} edit ${kindOf(pod)} ${pod.owner}`;
const describe = (pod: PodFacts): string => `${at(pod)} describe pod ${pod.name}`;

const pullErrors = ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"];
const createErrors = ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"];

function ofContainer(container: ContainerFacts, now: Date): Trouble | undefined {
  const { waiting, ended, image, restarts, name, memoryLimit } = container;
  if (waiting && pullErrors.includes(waiting.reason)) {
    const why = `${waiting.reason}: ${waiting.message || image}`;
    return { code: "ImageNotPulled", what: `the image ${image} cannot be had`, why, remedy: editOwner };
  }
  if (waiting && createErrors.includes(waiting.reason))
    return { code: waiting.reason, what: "cannot be started", why: `${waiting.reason}: ${waiting.message}`, remedy: describe };
  const recent = ended?.at !== undefined && now.getTime() - ended.at.getTime() < recentMs;
  if (!ended || restarts === 0 || (!recent && waiting?.reason !== "CrashLoopBackOff")) return undefined;
  const often = `container ${name} ended ${times(restarts)}${ended.at ? `, ${restarts === 1 ? "" : "the last time "}${ago(ended.at, now)}` : ""}`;
  if (ended.reason === "OOMKilled") {
    const limit = memoryLimit === undefined ? "it has no limit of its own, so its node ran out" : `it may take ${memoryLimit}`;
    const remedy = (pod: PodFacts) =>
      `${editOwner(pod)}   # a higher memory limit of container ${name}, or less: experts.memoryPerRank, runtime.kvPool`;
    return { code: "OutOfMemory", what: "killed for memory", why: `${often}, OOMKilled: ${limit}`, remedy };
  }
  const why = `${often}, with exit code ${ended.exitCode}${exitMessage(ended.message)}`;
  const remedy = (pod: PodFacts) => `${at(pod)} logs ${pod.name} -c ${name} --previous --tail=20`;
  return {
    code: "Crashing",
    what: restarts === 1 ? "has ended" : "ends again and again",
    why,
    remedy,
    end: readProcessEnd(ended.message)?.code,
  };
}

const times = (count: number): string => (count === 1 ? "once" : `${count} times`);

/** A line of our log that is not fatal is not why it ended. */
function exitMessage(text: string): string {
  const end = readProcessEnd(text);
  if (end) return `: ${end.code}: ${end.message}`;
  const last = text.trim().split("\n").at(-1) ?? "";
  return last === "" || last.startsWith("{") ? "" : `: ${last}`;
}

/** The scheduler's message tells whether a claim is the reason. */
function unscheduled(why: string): Trouble {
  const [, missing] = /persistentvolumeclaim "([^"]+)" not found/.exec(why) ?? [];
  const claims = (pod: PodFacts) => `${at(pod)} get pvc`;
  if (missing !== undefined) return { code: "ClaimNotFound", what: `its claim ${missing} is not there`, why, remedy: claims };
  if (why.includes("unbound immediate PersistentVolumeClaims"))
    return { code: "ClaimUnbound", what: "its claim is not bound", why, remedy: claims };
  return { code: "Unscheduled", what: "no node has room", why, remedy: () => "enodia doctor   # has what each node has free" };
}

function ofGates(pod: PodFacts, now: Date): Trouble | undefined {
  const ms = pod.createdAt === undefined ? 0 : now.getTime() - pod.createdAt.getTime();
  if (pod.gates.length === 0 || ms < gatedMs) return undefined;
  const why = heldByOthers(pod.gates);
  if (why !== "") return { code: schedulingGated, what: "is not to be scheduled yet", why, remedy: describe };
  const waits = `it waits since ${span(ms)} for the operator, which writes the certificate and then removes the gate ${certificateGate}`;
  return { code: "NoCertificate", what: "has no certificate yet", why: waits, remedy: () => "enodia doctor" };
}

export function troubleOf(pod: PodFacts, now: Date): Trouble | undefined {
  if (pod.terminating) return undefined;
  if (pod.unscheduled !== "") return unscheduled(pod.unscheduled);
  const gated = ofGates(pod, now);
  if (gated) return gated;
  if (pod.phase === "Failed") return { code: "PodFailed", what: "failed", why: pod.failure || "no reason is given", remedy: describe };
  for (const container of pod.containers) {
    const trouble = ofContainer(container, now);
    if (trouble) return trouble;
  }
  return undefined;
}

export function podFindings({ pods, now, deployments }: Observed): Finding[] {
  /** The operator reports these per deployment, with a better remedy. */
  const reported = new Set(
    deployments.flatMap(({ deployment: { metadata, status } }) =>
      (status.conditions ?? []).map(({ reason }) => `${metadata.namespace}/${metadata.name} ${reason}`),
    ),
  );
  const found = pods.flatMap((pod) => {
    const trouble = troubleOf(pod, now);
    const isReported = (code: string | undefined) => reported.has(`${pod.namespace}/${pod.owner} ${code}`);
    return trouble && !isReported(trouble.code) && !isReported(trouble.end) ? [{ pod, trouble }] : [];
  });
  const alike = Map.groupBy(found, ({ pod, trouble }) => `${kindOf(pod)} ${pod.namespace}/${pod.owner} ${pod.component} ${trouble.code}`);
  return [...alike.values()].flatMap((group) => {
    const [first] = group;
    if (!first) return [];
    const { pod, trouble } = first;
    const names = listed(
      group.map((each) => each.pod.name),
      podsNamedMax,
    );
    return [
      {
        kind: kindOf(pod),
        namespace: pod.namespace,
        name: pod.owner,
        severity: "warning",
        code: trouble.code,
        role: "cause",
        what: `${pod.component} ${names}: ${trouble.what}`,
        why: trouble.why,
        remedy: trouble.remedy(pod),
      },
    ];
  });
}
