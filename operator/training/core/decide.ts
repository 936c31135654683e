// The next step of a training job, from what is observed: a status and the pods to delete or make. Whatever the status says of a pod's end
// is written before that pod is deleted, and an action repeated changes nothing, so that a crash anywhere loses and doubles nothing. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import { type MoETrainingJob, trainingProblems } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { TrainingFailure } from "../../../crds/names.ts";
import type { TrainingReport } from "../../../crds/training-report.ts";
import type { PodView } from "./pod-view.ts";
import { type Judged, type PodEnd, type State, statusOf } from "./status.ts";

export type Action =
  | { readonly kind: "delete"; readonly name: string; readonly uid: string }
  /** The pod's name is made of the attempt: the same pod asked for twice is one. */
  | { readonly kind: "create"; readonly attempt: number };

interface Problem {
  readonly reason: string;
  readonly message: string;
}

export interface Observed {
  readonly job: MoETrainingJob;
  /** The status as it was written last. */
  readonly status: MoETrainingJobStatus;
  /** Its pods, those that are being deleted too. */
  readonly pods: readonly PodView[];
  /** A job that writes the same folder, was made before this one and is not over. */
  readonly rival: string | undefined;
  /** Pods of other objects that may still write the folder. */
  readonly otherWriters: readonly string[];
  /** What the running pod says. */
  readonly report: TrainingReport | undefined;
  /** Image of jobs that begin now. */
  readonly image: string;
  /** The hash that a pod made now would have. */
  readonly templateHash: (image: string) => string;
  /** What of the pod template cannot be. */
  readonly templateProblems: readonly Problem[];
  /** What the API server said where it refused the pod just now. */
  readonly podRefused: string | undefined;
  readonly now: Date;
}

export interface Decision {
  readonly status: MoETrainingJobStatus;
  readonly actions: readonly Action[];
  /** Look again after this many milliseconds. */
  readonly requeueAfterMs: number | undefined;
}

/** Codes of failures that no other try and no other input mends. */
const lostCodes = ["NonFiniteLoss"] as const satisfies readonly TrainingFailure[];
/** A running pod is asked how far it is this often. */
const progressMs = 5_000;
/** The pause before a pod that ended is replaced: this long, doubled with each such end without a new step. */
const pauseMs = 5_000;
const pauseMsMax = 300_000;
/** A pod that the API server refuses is asked for again after this, and a folder that is another job's. */
const refusedMs = 30_000;

export const isTrue = (status: MoETrainingJobStatus, type: string): boolean =>
  status.conditions?.some((one) => one.type === type && one.status === "True") ?? false;

/** Complete or Failed: such a job never starts again, whatever is deleted or changed. */
export const isOver = (status: MoETrainingJobStatus): boolean => isTrue(status, "Complete") || isTrue(status, "Failed");

export function decide(observed: Observed): Decision {
  const { status } = observed;
  if (isOver(status)) return decision(observed, { kind: "over" }, deleted(observed.pods));
  const current = observed.pods.find(({ attempt }) => attempt === attemptOf(status));
  const stale = deleted(observed.pods.filter((pod) => pod !== current));
  if (current?.over !== undefined) return decision(observed, ended(observed, current), [...stale, ...deleted([current])]);
  return next(observed, current, stale);
}

const attemptOf = ({ restarts = 0 }: MoETrainingJobStatus): number => restarts;

const deleted = (pods: readonly PodView[]): Action[] =>
  pods.filter(({ deleting }) => !deleting).map(({ name, uid }) => ({ kind: "delete", name, uid }));

/** What the end of the current pod means. It is deleted in any case; its attempt is not made again where it counts as a failure. */
function ended(observed: Observed, pod: PodView): State {
  const { job, status } = observed;
  const { end, disrupted, reason, message } = pod.over as NonNullable<PodView["over"]>;
  if (end?.outcome === "Complete") return { kind: "complete", report: end.report };
  // It left because it was told to: by an eviction, a drain, a suspension.
  if (disrupted || end?.outcome === "Stopped") return stopped(observed, pod);
  const code = end?.code ?? reason;
  const text = end?.message ?? message;
  const lost = lostCodes.find((known) => known === code);
  if (end?.retry === false && lost === undefined) {
    // Its input is at fault. What it was made for may have changed since.
    const { generation } = job.metadata;
    const problem = { reason: code, message: text };
    if (pod.generation === generation)
      return { kind: "refused", problems: [problem], refusal: { generation, ...problem }, report: end.report };
    return { kind: "waiting", reason: "SpecChanged", message: "the spec has changed since the pod was made", report: end.report };
  }
  const failure = endOf(observed, status.lastFailure, { reason: code, message: text, step: end?.report?.step });
  if (end?.retry === false && lost !== undefined) return { kind: "failed", reason: lost, message: text, failure, report: end.report };
  const restarts = attemptOf(status) + 1;
  const { maxRestarts } = job.spec.failurePolicy;
  if (restarts <= maxRestarts) return { kind: "restarting", restarts, failure, report: end?.report };
  const told = `the pod failed ${restarts} times, failurePolicy.maxRestarts is ${maxRestarts}; the last time: ${code}: ${text}`;
  return { kind: "failed", reason: "RestartLimit", message: told, failure, report: end?.report };
}

/** An end that does not count as a failure. One that a changed spec, as of a suspension, brought about is no reason for a pause. */
function stopped(observed: Observed, pod: PodView): State {
  const { job, status } = observed;
  const report = pod.over?.end?.report;
  const state = { kind: "waiting", reason: "Stopped", message: "the pod ended early", report } as const;
  if (pod.generation !== job.metadata.generation) return state;
  const stop = endOf(observed, status.lastStop, { reason: "Stopped", message: state.message, step: report?.step });
  return { ...state, stop };
}

interface End {
  readonly reason: string;
  readonly message: string;
  readonly step: number | undefined;
}

/** The end of a pod, as those like it before are counted. */
function endOf({ job, status, now }: Observed, before: PodEnd | undefined, { reason, message, step }: End): PodEnd {
  const at = Math.min(job.spec.steps, Math.max(step ?? 0, status.step ?? 0));
  const repeated = before !== undefined && at <= before.step ? before.repeated + 1 : 1;
  return { reason, message: message.slice(0, 1024), time: rfc3339(now), step: at, repeated };
}

interface Pause {
  readonly ms: number;
  readonly reason: string;
}

/** The time until a pod may be made again, and the end that it is due to. */
function pauseLeft({ status: { lastFailure, lastStop }, now }: Observed): Pause | undefined {
  const pauses = [lastFailure, lastStop].flatMap((end): Pause[] => {
    if (end === undefined) return [];
    const pause = Math.min(pauseMsMax, pauseMs * 2 ** Math.min(20, end.repeated - 1));
    const ms = Date.parse(end.time) + pause - now.getTime();
    return ms > 0 ? [{ ms, reason: `${end.reason}: ${end.message}` }] : [];
  });
  return pauses.toSorted((a, b) => b.ms - a.ms)[0];
}

/** The problems for which the spec, as it is now, is not trained: those that are seen from here, and those that a pod found. */
function problemsOf(observed: Observed): readonly Problem[] {
  const { job, status, templateProblems } = observed;
  const { refusal } = status;
  const found = refusal?.generation === job.metadata.generation ? [refusal] : [];
  return [...trainingProblems(job.spec), ...templateProblems, ...taken(observed), ...found];
}

function taken({ job, rival }: Observed): readonly Problem[] {
  if (rival === undefined) return [];
  const { uri } = job.spec.output;
  const message = `spec.output.uri ${uri} is that of job ${rival}, which was made before and is not over: one of the two has to be deleted`;
  return [{ reason: "OutputTaken", message }];
}

function next(observed: Observed, current: PodView | undefined, stale: readonly Action[]): Decision {
  const { job, status, pods, report } = observed;
  const problems = problemsOf(observed);
  if (job.spec.suspend)
    return decision(observed, { kind: "suspended", problems, report }, [...stale, ...deleted(current ? [current] : [])]);
  if (observed.rival !== undefined)
    return decision(observed, { kind: "refused", problems, report }, [...stale, ...deleted(current ? [current] : [])], refusedMs);
  // A pod that was made before goes on: the spec that it was made of was accepted.
  if (problems.length > 0)
    return decision(observed, { kind: "refused", problems, pod: current, report }, stale, current ? progressMs : undefined);
  if (current !== undefined) {
    const outdated = current.hash !== observed.templateHash(imageOf(observed)) || current.deleting;
    const state: State = outdated
      ? { kind: "waiting", reason: "Replacing", message: `pod ${current.name} ends, and another goes on from its checkpoint`, report }
      : { kind: "running", pod: current, report };
    return decision(observed, state, outdated ? [...stale, ...deleted([current])] : stale, progressMs);
  }
  // Never two pods at once: they would write the same checkpoints.
  if (pods.length > 0)
    return decision(observed, { kind: "waiting", reason: "Replacing", message: "the former pod is still there", report }, stale);
  const [writer] = observed.otherWriters;
  if (writer !== undefined) {
    const message = `the former pod is still there: ${writer} may write ${job.spec.output.uri}; delete it where no job has it`;
    return decision(observed, { kind: "waiting", reason: "Replacing", message, report }, stale, progressMs);
  }
  const pause = pauseLeft(observed);
  if (pause !== undefined) {
    const message = `${pause.reason}; the next try is in ${Math.ceil(pause.ms / 1000)} s`;
    return decision(observed, { kind: "waiting", reason: "BackOff", message: message.slice(0, 1500), report }, stale, pause.ms);
  }
  if (observed.podRefused !== undefined) {
    const message = `the API server refuses the pod: ${observed.podRefused}; correct spec.podTemplate, or the quota of the namespace`;
    return decision(observed, { kind: "waiting", reason: "PodRefused", message, report }, stale, refusedMs);
  }
  const state: State = { kind: "waiting", reason: "Starting", message: "a pod is made", report };
  return decision(observed, state, [...stale, { kind: "create", attempt: attemptOf(status) }], progressMs);
}

/** The image that the job began with, unless its owner names one. */
export function imageOf({ job, status, image }: Pick<Observed, "job" | "status" | "image">): string {
  return job.spec.image ?? status.image ?? image;
}

function decision(observed: Observed, state: State, actions: readonly Action[], requeueAfterMs?: number): Decision {
  const { job, status, pods, now } = observed;
  const begins = actions.some(({ kind }) => kind === "create");
  const judged: Judged = { job, status, pods, now, image: status.image ?? (begins ? imageOf(observed) : undefined), state };
  return { status: statusOf(judged), actions, requeueAfterMs };
}
