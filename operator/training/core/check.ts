// Checks a job's spec once, by a small pod that reads what the operator cannot. Pure.
import { rfc3339 } from "../../../crds/conditions.ts";
import { fitsIn, type TrainingCheck } from "../../../crds/training-check.ts";
import { pauseAfter, pauseOf } from "./ends.ts";
import { imageOf, type Observed, type Problem } from "./observed.ts";
import type { PodView } from "./pod-view.ts";
import type { Refusal } from "./status.ts";

/** Failed pods before the spec counts as refused: about 20 minutes. */
export const checkFailuresMax = 9;
const lookMs = 2_000;
const refusedMs = 30_000;
const messageCharsMax = 1024;

export interface Unchecked {
  readonly kind: "waits";
  readonly reason: "Checking" | "PodRefused" | "BackOff";
  readonly message: string;
  readonly again: number;
  readonly pod?: PodView;
  readonly makes?: boolean;
}
export type Checked = { readonly check: TrainingCheck } & (
  | { readonly kind: "fits" }
  | { readonly kind: "refused"; readonly refusal: Refusal }
  | Unchecked
);

/** A pod that is being deleted is not waited for: it writes nothing, and its node may be gone. */
const leaves: NonNullable<PodView["over"]> = { end: undefined, disrupted: true, reason: "Deleted", message: "it is being deleted" };
const strays: typeof leaves = { ...leaves, reason: "ClaimElsewhere", message: "another node has a claim of the job" };

export function checked(observed: Observed): Checked {
  const check = currentCheck(observed);
  if (check.fits !== undefined) return { kind: "fits", check };
  const pod = observed.checks.find(({ attempt }) => attempt === check.attempt);
  if (pod === undefined) return { check, ...withoutPod(observed, check) };
  const over = pod.over ?? (pod.deleting ? leaves : observed.place.astray.has(pod.uid) ? strays : undefined);
  if (over !== undefined) return ended(observed, check, { over, generation: pod.generation });
  const why = pod.waiting ?? `pod ${pod.name} reads model, data and checkpoints`;
  return { kind: "waits", check, pod, reason: "Checking", message: `whether the job fits: ${why}`, again: lookMs };
}

/** The check of the current spec, or of an equivalent earlier one. */
function currentCheck(observed: Observed): TrainingCheck {
  const { job, status } = observed;
  const { generation } = job.metadata;
  const about = { generation, hash: observed.checkHash(imageOf(observed)) };
  const { check, refusal, startTime } = status;
  if (check === undefined) {
    // An older operator created its pods unchecked.
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
  readonly generation: number;
}

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
    // What has changed since may be the remedy.
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

/** Applies the check's memory limits to another number of ranks. */
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
