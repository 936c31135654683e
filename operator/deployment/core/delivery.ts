// Which Jobs of a download are to be made and removed, whether the model is there, and what the status says of it. Pure.
import type { DownloadEnd, DownloadWords } from "../../../crds/download.ts";
import { progressText } from "../../../crds/progress-text.ts";

/** Pods that still write are looked at again after this. */
const writersMs = 2_000;
/** A Job that has failed is made anew after this: the source may be back, the disk larger, the Secret right. */
const retryMs = 120_000;

export interface JobFacts {
  readonly name: string;
  readonly uid: string;
  readonly state: "Running" | "Complete" | "Failed";
  /** The time at which it failed; undefined while it has not. */
  readonly failedMs: number | undefined;
  /** What the Job controller says of its failure. */
  readonly message: string;
  readonly terminating: boolean;
}

export interface DownloadPod {
  readonly uid: string;
  readonly job: string;
  /** Undefined while it does not run. */
  readonly ip: string | undefined;
  readonly createdMs: number;
  /** The reason why it does not run; empty when nothing is wrong. */
  readonly problem: string;
  /** What it said at its end; undefined of one that has not ended, or says nothing. */
  readonly end: DownloadEnd | undefined;
}

export interface DeliveryInput {
  /** The Job that brings the model; undefined where nothing is downloaded. */
  readonly wanted: string | undefined;
  readonly suspended: boolean;
  /** Those of this deployment. */
  readonly jobs: readonly JobFacts[];
  readonly pods: readonly DownloadPod[];
  /** Downloads of this deployment that have not ended, of Jobs that are gone or are to go: they may still write into its work folder. */
  readonly writers: readonly string[];
  /** What the running pod said last. */
  readonly words: DownloadWords | undefined;
  /** The reason why the Job could not be made; empty when none was refused. */
  readonly jobError: string;
  readonly now: number;
}

/** A model that is not there yet. */
export interface Pending {
  /** The reason of ModelAvailable=False. */
  readonly reason: string;
  readonly message: string;
  readonly words: DownloadWords | undefined;
}

export interface DeliveryPlan {
  readonly create: string | undefined;
  readonly remove: readonly JobFacts[];
  /** Undefined where the model is there, or none is downloaded. */
  readonly pending: Pending | undefined;
  /** What the download took the model from, where it is known. */
  readonly revision: string | undefined;
  readonly againInMs: number | undefined;
}

export function planDelivery(input: DeliveryInput): DeliveryPlan {
  const { wanted, jobs, suspended, jobError } = input;
  const job = jobs.find(({ name }) => name === wanted);
  const others = jobs.filter((one) => one !== job && !one.terminating);
  const plan = { create: undefined, remove: others, pending: undefined, revision: undefined, againInMs: undefined };
  if (wanted === undefined) return plan;
  if (job?.state === "Complete" && !job.terminating) return { ...plan, revision: lastEnd(input, job)?.revision };
  const pending = (reason: string, message: string): Pending => ({ reason, message, words: input.words });
  // While suspended there are no pods: what is on the disk waits there.
  if (suspended) {
    const remove = job && !job.terminating ? [...others, job] : others;
    return { ...plan, remove, pending: pending("Suspended", "spec.suspend is true: the model is downloaded once it is false") };
  }
  // A Job is gone before its pods are, and two pods would write the same files.
  if (job === undefined && input.writers.length > 0) {
    const told = `pod ${input.writers.join(", ")} of a download before is waited for, since it may still write; it is being deleted`;
    return { ...plan, pending: pending("Downloading", told), againInMs: writersMs };
  }
  if (job === undefined && jobError !== "") return { ...plan, create: wanted, pending: pending("JobRefused", jobError) };
  if (job === undefined) return { ...plan, create: wanted, pending: pending("Downloading", "the download begins") };
  if (job.terminating) return { ...plan, pending: pending("Downloading", `Job ${job.name} is being removed, and made anew`) };
  if (job.state === "Running") return { ...plan, pending: pending("Downloading", runningText(input, job)) };
  const end = lastEnd(input, job);
  const what = end?.message ?? (job.message === "" ? "the download failed" : job.message);
  const again = `it is tried again ${retryMs / 1000} s after that, and at once where Job ${job.name} is deleted`;
  const told = pending(end?.reason ?? "DownloadFailed", `${what}; ${again}`);
  const leftMs = (job.failedMs ?? input.now) + retryMs - input.now;
  return leftMs > 0 ? { ...plan, pending: told, againInMs: leftMs } : { ...plan, remove: [...others, job], pending: told };
}

/** What the last pod of a Job that has ended said. */
function lastEnd({ pods }: DeliveryInput, job: JobFacts): DownloadEnd | undefined {
  const ended = pods.filter((pod) => pod.job === job.name && pod.end !== undefined);
  return ended.sort((a, b) => b.createdMs - a.createdMs)[0]?.end;
}

/** What the pod says, or why it says nothing. */
function runningText({ pods, words }: DeliveryInput, job: JobFacts): string {
  const own = pods.filter((pod) => pod.job === job.name).sort((a, b) => b.createdMs - a.createdMs);
  const [newest] = own;
  if (newest === undefined) return `Job ${job.name} has no pod yet${suffix(job.message)}`;
  if (newest.problem !== "") return `its pod does not run: ${newest.problem}`;
  if (newest.end !== undefined) return `a pod ended: ${newest.end.message}; the next one goes on where it was`;
  if (words === undefined || words.pod !== newest.uid) return `Job ${job.name} starts`;
  return wordsText(words);
}

export function wordsText({ phase, doneBytes, totalBytes, bytesPerSecond, message }: DownloadWords): string {
  if (phase !== "Downloading") return `${phases[phase]}${suffix(message)}`;
  return `${progressText({ bytes: doneBytes, of: totalBytes, bytesPerSecond })}${suffix(message)}`;
}

const phases: Readonly<Record<Exclude<DownloadWords["phase"], "Downloading">, string>> = {
  Starting: "the download starts",
  Listing: "the files of the model are listed",
  Importing: "a store is made of what was downloaded",
  Done: "the store is in its place",
};

const suffix = (text: string): string => (text === "" ? "" : `: ${text}`);
