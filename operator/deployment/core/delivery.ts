// Which download Jobs to create and delete, and whether the model is there. Pure.
import type { DownloadEnd, DownloadWords } from "../../../crds/download.ts";
import { progressText } from "../../../crds/progress-text.ts";

const writersMs = 2_000;
/** A failed Job is created anew after this: the source, the disk or the Secret may be right by then. */
const retryMs = 120_000;

export interface JobFacts {
  readonly name: string;
  readonly uid: string;
  readonly state: "Running" | "Complete" | "Failed";
  /** Unix ms; undefined while it has not failed. */
  readonly failedMs: number | undefined;
  readonly message: string;
  readonly terminating: boolean;
}

export interface DownloadPod {
  readonly uid: string;
  readonly job: string;
  readonly ip: string | undefined;
  readonly createdMs: number;
  readonly problem: string;
  /** The pod's exit message; undefined while it runs. */
  readonly end: DownloadEnd | undefined;
}

export interface DeliveryInput {
  /** Undefined without a download. */
  readonly wanted: string | undefined;
  readonly suspended: boolean;
  readonly jobs: readonly JobFacts[];
  readonly pods: readonly DownloadPod[];
  /** Unfinished pods of other Jobs, which may still write. */
  readonly writers: readonly string[];
  readonly words: DownloadWords | undefined;
  /** Why the Job could not be created; empty when it was not refused. */
  readonly jobError: string;
  readonly now: number;
}

export interface Pending {
  readonly reason: string;
  readonly message: string;
  readonly words: DownloadWords | undefined;
}

export interface DeliveryPlan {
  readonly create: string | undefined;
  readonly remove: readonly JobFacts[];
  /** Undefined once the model is there. */
  readonly pending: Pending | undefined;
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
  // A suspended deployment has no pods; partial files wait on the disk.
  if (suspended) {
    const remove = job && !job.terminating ? [...others, job] : others;
    return { ...plan, remove, pending: pending("Suspended", "spec.suspend is true: the model is downloaded once it is false") };
  }
  // A Job may be gone before its pods, and two pods would write the same files.
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

function lastEnd({ pods }: DeliveryInput, job: JobFacts): DownloadEnd | undefined {
  const ended = pods.filter((pod) => pod.job === job.name && pod.end !== undefined);
  return ended.sort((a, b) => b.createdMs - a.createdMs)[0]?.end;
}

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
