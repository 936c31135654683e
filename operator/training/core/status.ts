// The status of a training job from what was observed and decided. Pure.
import { type Condition, type ConditionState, rfc3339, withTransition } from "../../../crds/conditions.ts";
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { TrainingFailure } from "../../../crds/names.ts";
import { unanswered } from "../../../crds/training-check.ts";
import { selectorText } from "../../../crds/training-process.ts";
import { joinCurves, type TrainingReport, type TrainingSpread } from "../../../crds/training-report.ts";
import type { TrainingWorld } from "../../../crds/training-world.ts";
import type { PodView } from "./pod-view.ts";
import { beforeSpawn } from "./spawn.ts";

interface Problem {
  readonly reason: string;
  readonly message: string;
}
export type PodEnd = NonNullable<MoETrainingJobStatus["lastFailure"]>;
export type Refusal = NonNullable<MoETrainingJobStatus["refusal"]>;

export type State = { readonly report?: TrainingReport | undefined } & (
  | { readonly kind: "over"; readonly why: string }
  | { readonly kind: "complete" }
  | { readonly kind: "failed"; readonly reason: TrainingFailure; readonly message: string; readonly failure: PodEnd }
  | { readonly kind: "restarting"; readonly restarts: number; readonly failure: PodEnd }
  /** `refusal`: a pod has just found the problem. */
  | { readonly kind: "refused"; readonly problems: readonly Problem[]; readonly refusal?: Refusal; readonly training?: boolean }
  /** It is unknown whether the spec fits; existing pods may train meanwhile. */
  | { readonly kind: "checking"; readonly reason: string; readonly message: string; readonly training: boolean }
  | { readonly kind: "suspended"; readonly problems: readonly Problem[] }
  | { readonly kind: "waiting"; readonly reason: string; readonly message: string; readonly stop?: PodEnd }
  /** `why`: what is known of lost ranks. */
  | { readonly kind: "running"; readonly ranks: number; readonly wanted: number; readonly why?: string | undefined }
);
/** The job's state after the end of one of its pods. */
export type AloneState = State & { readonly kind: "restarting" | "waiting" };

export interface Judged {
  readonly job: MoETrainingJob;
  readonly status: MoETrainingJobStatus;
  readonly pods: readonly PodView[];
  /** Pods of each rank before the current one. */
  readonly attempts: readonly number[] | undefined;
  readonly world: TrainingWorld | undefined;
  readonly state: State;
  /** The job's image; undefined before it begins. */
  readonly image: string | undefined;
  readonly now: Date;
}

const lossDigits = 4;
const lossText = (value: number): string => value.toFixed(lossDigits);
const normDigits = 4;

function durationText(seconds: number): string {
  if (seconds < 120) return `${Math.ceil(seconds)}s`;
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 120) return `${minutes}m`;
  return minutes < 48 * 60 ? `${(minutes / 60).toFixed(1)}h` : `${(minutes / 60 / 24).toFixed(1)}d`;
}

/** The last finished step; reports beyond the last one are ignored. */
function stepOf({ job, status, state }: Judged): number {
  return state.kind === "complete" ? job.spec.steps : Math.min(job.spec.steps, state.report?.step ?? status.step ?? 0);
}

/** Everything stays while there is no report, but for what holds only while a pod runs. */
function progress(judged: Judged): Partial<MoETrainingJobStatus> {
  const { job, status, state } = judged;
  const { report, kind } = state;
  const step = stepOf(judged);
  const before = (status.curve ?? []).map((point) => ({ step: point.step, loss: Number(point.loss) }));
  const within = (report?.curve ?? []).filter((point) => point.step <= job.spec.steps);
  const curve = joinCurves(before, within).map((point) => ({ step: point.step, loss: lossText(point.loss) }));
  const running = kind === "running";
  return {
    step,
    progress: `${Math.floor((100 * step) / job.spec.steps)}%`,
    ...(curve.length > 0 && { curve }),
    ...textOf("loss", lossText, judged),
    ...textOf("validationLoss", lossText, judged),
    ...textOf("gradientNorm", (value) => value.toPrecision(normDigits), judged),
    ...textOf("imbalance", lossText, judged),
    ...spreadOf(judged),
    ...(running && report?.tokensPerSecond !== undefined && { tokensPerSecond: Math.round(report.tokensPerSecond) }),
    ...(running && report?.secondsLeft !== undefined && { eta: durationText(report.secondsLeft) }),
    ...(running && report?.copies !== undefined && { copies: report.copies }),
  };
}

type Measured = "loss" | "validationLoss" | "gradientNorm" | "imbalance";

/** Texts, since specs and statuses hold no floating-point numbers. */
function textOf(field: Measured, write: (value: number) => string, { status, state }: Judged): Partial<MoETrainingJobStatus> {
  const value = state.report?.[field];
  const text = value === undefined ? status[field] : write(value);
  return text === undefined ? {} : { [field]: text };
}

function spreadOf({ status, state }: Judged): Pick<MoETrainingJobStatus, "spread"> {
  const found = state.report?.spread;
  const spread = found === undefined ? status.spread : spreadText(found);
  return spread === undefined ? {} : { spread };
}

const spreadText = ({ imbalanceAtPrimaries, imbalance, copied, exposedSeconds, bytes, expertShares }: TrainingSpread) => ({
  imbalanceAtPrimaries: lossText(imbalanceAtPrimaries),
  imbalance: lossText(imbalance),
  copied: lossText(copied),
  exposedSeconds: lossText(exposedSeconds),
  bytes,
  expertShares: expertShares.map(lossText),
});

const verdict = (status: Condition["status"], reason: string, message: string) => ({ status, reason, message });
type Verdict = ReturnType<typeof verdict>;

function accepted(state: State): Verdict | undefined {
  if (state.kind === "over") return undefined;
  const problems = "problems" in state ? state.problems : [];
  const [first] = problems;
  if (first === undefined) return verdict("True", "Accepted", "every field is taken up");
  return verdict("False", first.reason, problems.map(({ message }) => message).join("; "));
}

function running(judged: Judged): Verdict | undefined {
  const { job, state } = judged;
  const at = `step ${stepOf(judged)} of ${job.spec.steps}`;
  switch (state.kind) {
    case "complete":
      return verdict("False", "Complete", `all ${job.spec.steps} steps are done`);
    case "over":
      return verdict("False", "Failed", state.why);
    case "failed":
      return verdict("False", "Failed", state.message);
    case "suspended":
      return verdict("False", "Suspended", `after ${at}; it goes on from its last checkpoint once spec.suspend is false`);
    case "refused":
      return state.training
        ? verdict("True", "Training", `${at}, by the spec as it was`)
        : verdict("False", "Refused", "see the condition SpecAccepted");
    case "checking":
      return state.training
        ? verdict("True", "Training", `${at}, by the spec as it was; ${state.reason}: ${state.message}`)
        : verdict("False", state.reason, state.message);
    case "restarting":
      return verdict("False", "Restarting", `${state.failure.reason}: ${state.failure.message}`);
    case "waiting":
      return verdict("False", state.reason, state.message);
    case "running":
      return startedOf(state, at, beforeSpawn(job, judged.status) ? `; experts spawn after step ${job.spec.spawn?.step}` : "");
  }
}

function startedOf({ ranks, wanted, why }: State & { readonly kind: "running" }, at: string, later: string): Verdict {
  const on = `${at}, on ${ranks} ${ranks === 1 ? "rank" : "ranks"}${later}`;
  if (why !== undefined) return verdict("True", "FewerRanks", `${on}, until ${wanted} are ready: ${why}`.slice(0, 1500));
  return ranks === wanted ? verdict("True", "Training", on) : verdict("True", "Rescaling", `${on}, until ${wanted} are ready`);
}

function conditionsOf(judged: Judged): Condition[] {
  const { job, status, state, now } = judged;
  const before = status.conditions ?? [];
  const verdicts: Record<string, Verdict | undefined> = {
    SpecAccepted: accepted(state),
    Running: running(judged),
    Complete: state.kind === "complete" ? verdict("True", "AllStepsDone", `the model is in ${job.spec.output.uri}/store`) : undefined,
    Failed: state.kind === "failed" ? verdict("True", state.reason, state.message) : undefined,
    Suspended: state.kind === "suspended" ? verdict("True", "Requested", "spec.suspend is true") : suspendedBefore(before, judged),
  };
  // Conditions of others stay untouched.
  return Object.entries(verdicts).flatMap(([type, next]): Condition[] => {
    if (next === undefined) return before.filter((condition) => condition.type === type).slice(0, 1);
    const condition: ConditionState = { type, ...next, observedGeneration: job.metadata.generation };
    return [withTransition(before, condition, now)];
  });
}

/** A job that was never suspended has no such condition. */
function suspendedBefore(before: readonly Condition[], { job, state }: Judged): Verdict | undefined {
  if (state.kind === "over" || job.spec.suspend || !before.some(({ type }) => type === "Suspended")) return undefined;
  return verdict("False", "Resumed", "spec.suspend is false");
}

function resultOf({ job, status, state, now }: Judged): Pick<MoETrainingJobStatus, "result" | "completionTime"> {
  const { result, completionTime } = status;
  if (state.kind !== "complete") return { ...(result && { result }), ...(completionTime && { completionTime }) };
  const { uri } = job.spec.output;
  const adapters = job.spec.adapters === "" ? undefined : `${uri}/adapters`;
  const found = { store: `${uri}/store`, huggingface: `${uri}/huggingface`, ...(adapters && { adapters }) };
  return { result: found, completionTime: completionTime ?? rfc3339(now) };
}

export function statusOf(judged: Judged): MoETrainingJobStatus {
  const { job, status, state, pods, image, now, world, attempts } = judged;
  const failure = state.kind === "failed" || state.kind === "restarting" ? state.failure : status.lastFailure;
  const stop = state.kind === "waiting" ? (state.stop ?? status.lastStop) : status.lastStop;
  const refusal = state.kind === "refused" ? (state.refusal ?? status.refusal) : status.refusal;
  const began = status.startTime ?? (image === undefined ? undefined : rfc3339(now));
  return {
    observedGeneration: job.metadata.generation,
    replicas: pods.filter(({ over }) => over === undefined).length,
    readyReplicas: pods.filter(({ running: runs, over, deleting }) => runs && over === undefined && !deleting).length,
    selector: selectorText(job.metadata.name),
    ...progress(judged),
    ...(world && { world }),
    ...(attempts && { attempts: [...attempts] }),
    restarts: state.kind === "restarting" ? state.restarts : (status.restarts ?? 0),
    ...(image !== undefined && { image }),
    ...(failure && { lastFailure: failure }),
    ...(stop && { lastStop: stop }),
    ...(refusal?.generation === job.metadata.generation && { refusal }),
    ...(status.check && { check: state.kind === "refused" && state.refusal ? unanswered(status.check) : status.check }),
    ...(began !== undefined && { startTime: began }),
    ...resultOf(judged),
    conditions: conditionsOf(judged),
  };
}
