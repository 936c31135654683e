// Judges the end of a training pod: whether it is a failure, and the pause before the next. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { TrainingFailure } from "../../../crds/names.ts";
import type { Observed } from "./observed.ts";
import type { PodView } from "./pod-view.ts";
import type { AloneState, PodEnd, State } from "./status.ts";

/** Failures that no retry mends. */
const lostCodes = ["NonFiniteLoss"] as const satisfies readonly TrainingFailure[];
/** Each end without a new step doubles it. */
const pauseMs = 5_000;
const pauseMsMax = 300_000;
export const pauseAfter = (repeated: number): number => Math.min(pauseMsMax, pauseMs * 2 ** Math.min(20, Math.max(0, repeated - 1)));

const lostCodeOf = (code: string): TrainingFailure | undefined => lostCodes.find((known) => known === code);
const wasStopped = ({ over }: PodView): boolean => over?.disrupted === true || over?.end?.outcome === "Stopped";

/** One rank's failure may have ended the others. */
export function foremostEnd(pods: readonly PodView[]): PodView | undefined {
  const over = pods.filter((pod) => pod.over !== undefined);
  const orders: readonly ((pod: PodView) => boolean)[] = [
    (pod) => pod.over?.end?.outcome === "Complete",
    (pod) => lostCodeOf(pod.over?.end?.code ?? "") !== undefined,
    (pod) => pod.over?.end?.retry === false,
    (pod) => !wasStopped(pod),
    () => true,
  ];
  for (const order of orders) {
    const found = over.find(order);
    if (found !== undefined) return found;
  }
  return undefined;
}

export function ended(observed: Observed, pod: PodView): State {
  const { job, status } = observed;
  const { end, reason, message } = pod.over as NonNullable<PodView["over"]>;
  if (end?.outcome === "Complete") return { kind: "complete", report: end.report };
  if (wasStopped(pod)) return stopped(observed, pod);
  const code = end?.code ?? reason;
  const text = end?.message ?? message;
  const lost = lostCodeOf(code);
  if (end?.retry === false && lost === undefined) {
    // Its input may have changed since.
    const { generation } = job.metadata;
    const problem = { reason: code, message: text };
    if (pod.generation === generation)
      return { kind: "refused", problems: [problem], refusal: { generation, ...problem }, report: end.report };
    return { kind: "waiting", reason: "SpecChanged", message: "the spec has changed since the pod was made", report: end.report };
  }
  const failure = endOf(observed, status.lastFailure, { reason: code, message: text, step: end?.report?.step, since: pod.since });
  if (end?.retry === false && lost !== undefined) return { kind: "failed", reason: lost, message: text, failure, report: end.report };
  const restarts = (status.restarts ?? 0) + 1;
  const { maxRestarts } = job.spec.failurePolicy;
  if (restarts <= maxRestarts) return { kind: "restarting", restarts, failure, report: end?.report };
  const summary = `pods failed ${restarts} times, failurePolicy.maxRestarts is ${maxRestarts}; the last time: ${code}: ${text}`;
  return { kind: "failed", reason: "RestartLimit", message: summary, failure, report: end?.report };
}

/** Only this pod is replaced; the others train on or wait. */
export const isAlone = (state: State): state is AloneState => state.kind === "restarting" || state.kind === "waiting";

export function afterEnd(status: MoETrainingJobStatus, state: AloneState, rank: number): MoETrainingJobStatus {
  const counted = { ...status, attempts: raised(status.attempts ?? [], rank) };
  if (state.kind === "restarting") return { ...counted, restarts: state.restarts, lastFailure: state.failure };
  return state.stop === undefined ? counted : { ...counted, lastStop: state.stop };
}

export function raised(attempts: readonly number[], rank: number): number[] {
  const all = Array.from({ length: Math.max(attempts.length, rank + 1) }, (_, i) => attempts[i] ?? 0);
  all[rank] = (all[rank] ?? 0) + 1;
  return all;
}

/** An end that is no failure. One that a changed spec caused needs no pause. */
function stopped(observed: Observed, pod: PodView): AloneState {
  const { job, status } = observed;
  const { end, reason, message } = pod.over as NonNullable<PodView["over"]>;
  const summary = end === undefined && reason === nodeLost ? `${pod.name}: ${message}` : `pod ${pod.name} ended early`;
  const state = { kind: "waiting", reason: "Stopped", message: summary, report: end?.report } as const;
  if (pod.generation !== job.metadata.generation) return state;
  const stop = endOf(observed, status.lastStop, { reason: "Stopped", message: summary, step: end?.report?.step, since: pod.since });
  return { ...state, stop };
}

export const nodeLost = "NodeLost";

interface End {
  readonly reason: string;
  readonly message: string;
  readonly step: number | undefined;
  readonly since: number;
}

/** Pods that existed at the last end have the same cause, so that it does not count again. */
function endOf({ job, status, now }: Observed, before: PodEnd | undefined, { reason, message, step, since }: End): PodEnd {
  const at = Math.min(job.spec.steps, Math.max(step ?? 0, status.step ?? 0));
  const again = before !== undefined && at <= before.step ? before.repeated : 0;
  const tried = before === undefined || since > Date.parse(before.time);
  return { reason, message: message.slice(0, 1024), time: rfc3339(now), step: at, repeated: Math.max(1, again + (tried ? 1 : 0)) };
}

/** 0 where the end is in the future, by a clock that was ahead. */
export function pauseOf({ time, repeated }: Pick<PodEnd, "time" | "repeated">, now: Date): number {
  const age = now.getTime() - Date.parse(time);
  return age < 0 ? 0 : Math.max(0, pauseAfter(repeated) - age);
}

interface Pause {
  readonly ms: number;
  readonly reason: string;
}

export function pauseLeft({ status: { lastFailure, lastStop }, now }: Observed): Pause | undefined {
  const pauses = [lastFailure, lastStop].flatMap((end): Pause[] => {
    if (end === undefined) return [];
    const ms = pauseOf(end, now);
    return ms > 0 ? [{ ms, reason: `${end.reason}: ${end.message}` }] : [];
  });
  return pauses.toSorted((a, b) => b.ms - a.ms)[0];
}
