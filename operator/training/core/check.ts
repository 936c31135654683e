// The check of a job before its pods: whether its spec was found to fit, by a small pod that reads what the operator does not, or why that
// is not known yet. A spec is checked once, by one pod at a time; another is made where one ends without a word, and after too many of
// those the spec counts as refused. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import { fitsIn, type TrainingCheck } from "../../../crds/training-check.ts";
import { pauseAfter, pauseOf } from "./ends.ts";
import { imageOf } from "./image.ts";
import type { Observed, Problem } from "./observed.ts";
import type { PodView } from "./pod-view.ts";
import type { Refusal } from "./status.ts";

/** Pods of one check that fail, before its spec counts as refused: about 20 minutes of tries. */
export const checkFailuresMax = 9;
/** A pod that has not begun to run is looked for again after this. */
const lookMs = 2_000;
const refusedMs = 30_000;
const messageCharsMax = 1024;

/** Why it is not known whether a spec fits. */
export interface Unchecked {
  readonly kind: "waits";
  readonly reason: "Checking" | "PodRefused" | "BackOff";
  readonly message: string;
  readonly again: number;
  /** Its pod, which is to stay; or none, and then one may have to be made. */
  readonly pod?: PodView;
  readonly makes?: boolean;
}
export type Checked = { readonly check: TrainingCheck } & (
  | { readonly kind: "fits" }
  | { readonly kind: "refused"; readonly refusal: Refusal }
  | Unchecked
);

/** One that is being deleted is not waited for, since it writes nothing, and its node may be gone. */
const leaves: NonNullable<PodView["over"]> = { end: undefined, disrupted: true, reason: "Deleted", message: "it is being deleted" };

export function checked(observed: Observed): Checked {
  const check = currentCheck(observed);
  if (check.fits !== undefined) return { kind: "fits", check };
  const pod = observed.checks.find(({ attempt }) => attempt === check.attempt);
  if (pod === undefined) return { check, ...withoutPod(observed, check) };
  const over = pod.over ?? (pod.deleting ? leaves : undefined);
  if (over !== undefined) return ended(observed, check, { over, generation: pod.generation });
  const why = pod.waiting ?? `pod ${pod.name} reads model, data and checkpoints`;
  return { kind: "waits", check, pod, reason: "Checking", message: `whether the job fits: ${why}`, again: lookMs };
}

/** That of the spec as it is, which may be known from a spec that differs in nothing that matters. */
function currentCheck(observed: Observed): TrainingCheck {
  const { job, status } = observed;
  const { generation } = job.metadata;
  const about = { generation, hash: observed.checkHash(imageOf(observed)) };
  const { check, refusal, startTime } = status;
  if (check === undefined) {
    // Its pods were made by an operator that checked nothing, and told by themselves.
    const began = startTime !== undefined && refusal === undefined;
    return { ...about, attempt: 0, ...(began && { fits: { message: "the job began before jobs were checked" } }) };
  }
  if (check.generation === generation || check.hash === about.hash) return { ...check, ...about };
  return { ...about, attempt: check.attempt + 1 };
}

function withoutPod({ podRefused, now }: Observed, { lastEnd }: TrainingCheck): Unchecked {
  const waits = { kind: "waits", reason: "Checking" } as const;
  if (podRefused !== undefined) {
    const remedy = "correct spec.podTemplate or the quota of the namespace, or free what the job's own pods take of it by spec.suspend";
    const message = `the API server refuses the pod that checks the job: ${podRefused}; ${remedy}`;
    return { ...waits, reason: "PodRefused", message, again: refusedMs };
  }
  const left = lastEnd === undefined ? 0 : pauseOf(lastEnd, now);
  if (lastEnd === undefined || left <= 0)
    return { ...waits, makes: true, message: "whether the job fits: a pod is made that looks", again: lookMs };
  const message = `${lastEnd.message}; the next try is in ${Math.ceil(left / 1000)} s`;
  return { ...waits, reason: "BackOff", message, again: left };
}

interface CheckEnd {
  readonly over: NonNullable<PodView["over"]>;
  /** Of the spec that its pod was made of. */
  readonly generation: number;
}

/** The end of its pod, which is deleted, and whose attempt is not made again. */
function ended({ job, now }: Observed, check: TrainingCheck, { over, generation: asked }: CheckEnd): Checked {
  const { end, disrupted } = over;
  const { generation } = job.metadata;
  if (end?.outcome === "Fits") {
    const { message = "it fits", sizes } = end;
    return { kind: "fits", check: { ...check, fits: { message, ...(sizes && { sizes }) } } };
  }
  const { lastEnd, failures = 0, ...about } = check;
  const next = { ...about, attempt: check.attempt + 1 };
  const [reason, text] = [end?.code ?? over.reason, end?.message ?? over.message];
  if (end?.outcome === "Failed" && end.retry === false) {
    if (asked === generation) return { kind: "refused", check: next, refusal: { generation, reason, message: text } };
    // It was asked of another number of ranks, perhaps, or of claims as they were: what has changed since may be the remedy.
    const message = "whether the job fits: the spec has changed since a pod looked, and another looks";
    return { kind: "waits", check: next, reason: "Checking", message, again: lookMs };
  }
  const failed = failures + Number(!disrupted);
  const what = disrupted ? "was ended early" : `failed: ${reason}: ${text}`;
  if (failed > checkFailuresMax) {
    const remedy = "correct it, and change the spec, as by suspend, for another try; image has to be of this version";
    const message = `the pod that checks the job failed ${failed} times, the last time: ${reason}: ${text.slice(0, messageCharsMax)}; ${remedy}`;
    return { kind: "refused", check: next, refusal: { generation, reason: "CheckFailed", message } };
  }
  const message = `the pod that checks the job ${what}`.slice(0, messageCharsMax);
  const repeated = (lastEnd?.repeated ?? 0) + 1;
  const after = { ...next, ...(failed > 0 && { failures: failed }), lastEnd: { message, time: rfc3339(now), repeated } };
  return { kind: "waits", check: after, reason: "BackOff", message, again: pauseAfter(repeated) };
}

/** A number of ranks for which memory is not enough, as far as the check knows: another than was asked for when it was made. */
export function sizeProblems({ job }: Pick<Observed, "job">, { fits }: TrainingCheck, ranks: number): readonly Problem[] {
  const { sizes } = fits ?? {};
  const worlds = 1 + job.spec.local.data.length;
  if (sizes === undefined || fitsIn(sizes, ranks, worlds)) return [];
  const { leastRanks, alone } = sizes;
  const enough = [...(alone ? [`${worlds}`] : []), ...(leastRanks === undefined ? [] : [`${Math.max(2, leastRanks) * worlds} or more`])];
  const memory = `spec.memoryPerRank ${job.spec.memoryPerRank} is enough for ${enough.join(", or ")}`;
  const message = `spec.replicas is ${ranks}, and ${memory}: set one of these, or raise spec.memoryPerRank`;
  return [{ reason: "DoesNotFit", message }];
}
