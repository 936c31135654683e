// Downloads of the model and the weight server. After the source, whose model a weight server keeps; before the target spec, which waits for
// the model. Pure.
import { type DownloadEnd, type DownloadProgress, downloaderComponent } from "../../../crds/download.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { progressText } from "../../../crds/progress-text.ts";
import { weightServerComponent } from "../../../crds/weight-server.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Role } from "../../pki/names.ts";
import { type ClaimUse, holderOf, isAstray, ofOneNode, refusalOf, serverNode } from "../../pods/claim-holder.ts";
import { userOf } from "../../pods/claim-use.ts";
import { living, type Pending } from "../core/snapshot.ts";
import { ofModel, type WeightServerWish } from "../objects/context.ts";
import { downloadJob } from "../objects/download-job.ts";
import { modelPlace, modelText } from "../objects/model-place.ts";
import type { DownloadPod, JobFacts, Observed, WeightServerState } from "../observed.ts";
import { feature, type ResultOf } from "./feature.ts";
import { source } from "./model-source.ts";

const judgedMs = 1_000;
const judging: Pending = {
  reason: "WeightServerNotReady",
  message: "the weight server gets the model once the spec is known to be good",
  report: undefined,
};

export const delivery = feature({
  needs: { source },
  run: (observed, { source }): Delivery => (observed.remoteStore ? withWeightServer(observed, source) : download(observed)),
});

export type DeliveryAction =
  | { readonly type: "certify"; readonly role: Role }
  | { readonly type: "deleteJob"; readonly name: string; readonly uid: string }
  | { readonly type: "createJob"; readonly name: string; readonly job: KubeObject }
  | { readonly type: "judgeJob"; readonly name: string; readonly job: KubeObject }
  | Question
  | { readonly type: "stopAsking" };

export interface Question {
  readonly type: "ask";
  readonly uid: string;
  readonly ip: string;
  readonly ready?: boolean;
  /** Uids of the pods that a weight server may serve. */
  readonly members?: readonly string[];
}

interface Delivery {
  readonly pending: Pending | undefined;
  readonly revision: string | undefined;
  /** What starting ranks wait for while others serve; empty when nothing. */
  readonly away: string;
  /** Undefined where ranks mount the model. */
  readonly weightServer: WeightServerWish | undefined;
  readonly actions: readonly DeliveryAction[];
  readonly againInMs: number | undefined;
}

type Source = ResultOf<typeof source>;

const usesOf = ({ claimUses }: Observed, { spec }: MoEDeployment): readonly ClaimUse[] =>
  claimUses.filter(({ claim }) => claim === modelPlace(spec).claim);

const isOwn =
  ({ metadata }: MoEDeployment, component: string) =>
  (use: ClaimUse) =>
    use.user === userOf.deployment(metadata.name) && use.component === component;

function download(observed: Observed): Delivery {
  const { deployment, settings, download: seen, memory, ticksMs, now } = observed;
  const { wanted, workInUse } = seen;
  const refused = memory.jobRefused?.name === wanted ? memory.jobRefused : undefined;
  const { suspend, model } = deployment.spec;
  const uses = usesOf(observed, deployment);
  const node = holderOf(ofOneNode(uses))?.node;
  const plan = planDelivery({ ...seen, suspended: suspend, jobError: refused?.message ?? "", now: now.getTime() });
  const astray = (job: JobFacts) =>
    job.state === "Running" && !job.terminating && isAstray(uses, isOwn(deployment, downloaderComponent), job.held);
  const gone = seen.jobs.filter((job) => plan.remove.includes(job) || astray(job));
  const running = seen.pods.find((pod) => pod.job === wanted && pod.ip !== undefined && pod.end === undefined);
  const waitMs = refused ? refused.untilMs - ticksMs : 0;
  const actions: DeliveryAction[] = gone.map(({ name, uid }) => ({ type: "deleteJob", name, uid }));
  const of = (name: string) => ({ name, job: downloadJob({ deployment, settings }, name, { workInUse, node }) });
  if (plan.podless !== undefined && waitMs <= 0) actions.push({ type: "judgeJob", ...of(plan.podless) });
  if (plan.create !== undefined && waitMs <= 0) {
    // The Secret comes before its pod: the kubelet notices a later one only after a minute or two.
    actions.push({ type: "certify", role: "downloader" });
    actions.push({ type: "createJob", ...of(plan.create) });
  }
  if (plan.pending && running?.ip !== undefined) actions.push({ type: "ask", uid: running.uid, ip: running.ip });
  if (running === undefined && model.cache?.ephemeral === undefined) actions.push({ type: "stopAsking" });
  const waits = [plan.againInMs, waitMs > 0 ? waitMs : undefined].filter((ms) => ms !== undefined);
  return {
    ...{ pending: plan.pending, revision: plan.revision, away: "", weightServer: undefined, actions },
    againInMs: waits.length === 0 ? undefined : Math.min(...waits),
  };
}

/** A ReadWriteOncePod claim that another pod has, or is to have first. */
function inUse(observed: Observed, tried: boolean): Omit<Delivery, "weightServer"> | undefined {
  const { deployment, oncePod } = observed;
  const { claim = "" } = modelPlace(deployment.spec);
  const asking = { claim, user: userOf.deployment(deployment.metadata.name), tried };
  const message = oncePod ? refusalOf(usesOf(observed, deployment), asking) : "";
  if (message === "") return undefined;
  return { pending: { reason: "ClaimInUse", message, report: undefined }, revision: undefined, away: "", actions: [], againInMs: claimMs };
}

function withWeightServer(observed: Observed, source: Source): Delivery {
  const decided = keepWeightServer(observed, source);
  return { ...decided, actions: [...decided.actions, ...tellMembers(observed)] };
}

/** Whatever else is decided: a rank that joins waits for it, and one that has left reads on without it. */
function tellMembers({ deployment, weightServer: { pods }, pods: ranks }: Observed): Question[] {
  const running = pods.find((pod) => pod.running && !pod.terminating);
  if (running?.ip === undefined || deployment.spec.suspend) return [];
  const { uid, ip, ready } = running;
  return [{ type: "ask", uid, ip, ready, members: living(ranks).map((rank) => rank.uid) }];
}

function keepWeightServer(observed: Observed, { keeps, tried, serving }: Source): Delivery {
  const { suspend } = observed.deployment.spec;
  const of = ofModel(observed.deployment, keeps);
  const node = serverNode(usesOf(observed, of), isOwn(of, weightServerComponent), modelText(modelPlace(of.spec)));
  const refused = suspend || (serving && !keeps) ? undefined : inUse(observed, tried);
  if (refused) return { ...refused, weightServer: { replicas: keeps ? 1 : 0, keeps, node } };
  const found = download(observed);
  const sharesClaim = modelPlace(of.spec).claim === modelPlace(observed.deployment.spec).claim;
  const isIdle = found.pending !== undefined && (keeps === undefined || (observed.oncePod && sharesClaim));
  const replicas: WeightServerWish["replicas"] = suspend || isIdle ? 0 : 1;
  if (found.pending) return { ...found, weightServer: { replicas, keeps, node } };
  const { verdict, actions } = weightServer(observed, { keeps, serving });
  const all = [...found.actions, ...actions];
  if (!keeps) return { ...found, ...verdict, weightServer: { replicas, node }, actions: all };
  // Problems of the old weight server do not block a spec without one.
  const kept = { ...found, away: verdict.away, weightServer: { replicas, keeps, node }, actions: all };
  return keeps.asks ? { ...kept, pending: judging, againInMs: judgedMs } : kept;
}

function weightServer({ deployment: of, weightServer: seen }: Observed, { keeps, serving }: Omit<Source, "tried">) {
  const deployment = ofModel(of, keeps);
  const { spec } = deployment;
  const place = modelText(modelPlace(spec));
  const downloads = spec.model.cache?.ephemeral !== undefined;
  const pods = seen.pods.map((pod) => ({ ...pod, current: pod.model === place && !pod.terminating }));
  const { refused } = seen;
  const report = downloads ? seen.report : undefined;
  const verdict = weightServerVerdict({ downloads, suspended: spec.suspend, pods, refused, report, serving });
  const actions: DeliveryAction[] = [{ type: "certify", role: "weight-server" }];
  return { verdict, actions };
}

const writersMs = 2_000;
/** Pods of other deployments wake nobody here. */
const claimMs = 10_000;
/** A failed Job is created anew after this: the source, the disk or the Secret may be right by then. */
const retryMs = 120_000;

/** Time in which a Job gets its pod; then a dry run says why it does not. */
const podMs = 5_000;

export interface DeliveryInput {
  /** Undefined without a download. */
  readonly wanted: string | undefined;
  readonly suspended: boolean;
  readonly jobs: readonly JobFacts[];
  readonly pods: readonly DownloadPod[];
  /** Unfinished pods of other Jobs, which may still write. */
  readonly writers: readonly string[];
  readonly report: DownloadProgress | undefined;
  /** Why the Job or its pod could not be created; empty when none was refused. */
  readonly jobError: string;
  readonly now: number;
}

export interface DeliveryPlan {
  readonly create: string | undefined;
  /** The Job that has had no pod for a while. */
  readonly podless: string | undefined;
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
  const plan = { create: undefined, podless: undefined, remove: others, pending: undefined, revision: undefined, againInMs: undefined };
  if (wanted === undefined) return plan;
  if (job?.state === "Complete" && !job.terminating) return { ...plan, revision: lastEnd(input, job)?.revision };
  const pending = (reason: string, message: string): Pending => ({ reason, message, report: input.report });
  // A suspended deployment has no pods; partial files wait on the disk.
  if (suspended) {
    const remove = job && !job.terminating ? [...others, job] : others;
    return { ...plan, remove, pending: pending("Suspended", "spec.suspend is true: the model is downloaded once it is false") };
  }
  // A Job may be gone before its pods, and two pods would write the same files.
  if (job === undefined && input.writers.length > 0) {
    const waits = `pod ${input.writers.join(", ")} of a download before is waited for, since it may still write; it is being deleted`;
    return { ...plan, pending: pending("Downloading", waits), againInMs: writersMs };
  }
  if (job === undefined && jobError !== "") return { ...plan, create: wanted, pending: pending("JobRefused", jobError) };
  if (job === undefined) return { ...plan, create: wanted, pending: pending("Downloading", "the download begins") };
  if (job.terminating) return { ...plan, pending: pending("Downloading", `Job ${job.name} is being removed, and made anew`) };
  if (job.state === "Running") return { ...plan, ...running(input, job) };
  const end = lastEnd(input, job);
  const what = end?.message ?? (job.message === "" ? "the download failed" : job.message);
  const again = `it is tried again ${retryMs / 1000} s after that, and at once where Job ${job.name} is deleted`;
  const failed = pending(end?.reason ?? "DownloadFailed", `${what}; ${again}`);
  const leftMs = (job.failedMs ?? input.now) + retryMs - input.now;
  return leftMs > 0 ? { ...plan, pending: failed, againInMs: leftMs } : { ...plan, remove: [...others, job], pending: failed };
}

function lastEnd({ pods }: DeliveryInput, job: JobFacts): DownloadEnd | undefined {
  const ended = pods.filter((pod) => pod.job === job.name && pod.end !== undefined);
  return ended.sort((a, b) => b.createdMs - a.createdMs)[0]?.end;
}

function running(input: DeliveryInput, job: JobFacts): Pick<DeliveryPlan, "pending" | "podless" | "againInMs"> {
  const { pods, jobError, report, now } = input;
  const pending = { reason: "Downloading", message: runningText(input, job), report };
  if (pods.some((pod) => pod.job === job.name)) return { pending, podless: undefined, againInMs: undefined };
  const leftMs = job.createdMs + podMs - now;
  if (leftMs > 0) return { pending, podless: undefined, againInMs: leftMs };
  return { pending: jobError === "" ? pending : { ...pending, reason: "JobRefused" }, podless: job.name, againInMs: podMs };
}

function runningText({ pods, report, jobError }: DeliveryInput, job: JobFacts): string {
  const own = pods.filter((pod) => pod.job === job.name).sort((a, b) => b.createdMs - a.createdMs);
  const [newest] = own;
  if (newest === undefined) return `Job ${job.name} has no pod yet${suffix(jobError)}`;
  if (newest.problem !== "") return `its pod does not run: ${newest.problem}`;
  if (newest.end !== undefined) return `a pod ended: ${newest.end.message}; the next one goes on where it was`;
  if (report === undefined || report.pod !== newest.uid) return `Job ${job.name} starts`;
  return downloadText(report);
}

export function downloadText({ phase, doneBytes, totalBytes, bytesPerSecond, message }: DownloadProgress): string {
  if (phase !== "Downloading") return `${phases[phase]}${suffix(message)}`;
  return `${progressText({ bytes: doneBytes, of: totalBytes, bytesPerSecond })}${suffix(message)}`;
}

const phases: Readonly<Record<Exclude<DownloadProgress["phase"], "Downloading">, string>> = {
  Starting: "the download starts",
  Listing: "the files of the model are listed",
  Importing: "a store is made of what was downloaded",
  Done: "the store is in its place",
};

const suffix = (text: string): string => (text === "" ? "" : `: ${text}`);

export interface WeightServerInput {
  /** It downloads the model itself. */
  readonly downloads: boolean;
  readonly suspended: boolean;
  readonly pods: readonly WeightServerState[];
  /** Why it gets no pod; empty when nothing is refused. */
  readonly refused: string;
  readonly report: DownloadProgress | undefined;
  /** A rank has opened this model from it, and serves. */
  readonly serving: boolean;
}

export interface WeightServerVerdict {
  /** The model is missing, so that no rank is created. */
  readonly pending: Pending | undefined;
  /** What starting ranks wait for while others serve; empty when the weight server runs. */
  readonly away: string;
}

const there: WeightServerVerdict = { pending: undefined, away: "" };

export function weightServerVerdict({ downloads, suspended, pods, refused, report, serving }: WeightServerInput): WeightServerVerdict {
  if (suspended) {
    const message = "spec.suspend is true: the weight server downloads the model once it is false";
    return downloads ? { pending: { reason: "Suspended", message, report }, away: "" } : there;
  }
  const [newest] = pods.filter(({ current }) => current).sort((a, b) => b.createdMs - a.createdMs);
  if (newest?.ready) return there;
  const heard = newest !== undefined && report?.pod === newest.uid ? report : undefined;
  const message =
    newest === undefined ? `the weight server has no pod yet${suffix(refused)}` : stateText(newest, downloads ? heard : undefined);
  if (serving) return { pending: undefined, away: `${message}; ranks that serve go on, and those that start wait for it` };
  const reason = heard?.reason ?? newest?.end?.code ?? (downloads ? "Downloading" : "WeightServerNotReady");
  return { pending: { reason, message, report: downloads ? heard : undefined }, away: "" };
}

function stateText({ name, problem }: WeightServerState, report: DownloadProgress | undefined): string {
  if (problem !== "") return `the weight server, pod ${name}, does not run: ${problem}`;
  return report === undefined || report.phase === "Done"
    ? `the weight server, pod ${name}, starts and opens the model`
    : downloadText(report);
}
