// One pass over a training job: observe, decide, apply the PodGroup, write the status, then change, certify and inform pods. Every step may
// be repeated.
import { AppError, annotations, labels } from "../../crds/common.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import { type MoETrainingJobStatus, moeTrainingJobStatusSchema } from "../../crds/moe-training-job-status.ts";
import { checkerComponent } from "../../crds/training-process.ts";
import type { GangScheduler } from "../gangs/gang.ts";
import { chooseScheduler, gangOf } from "../gangs/index.ts";
import type { Outcome } from "../kube/controller.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import type { StatusWriter } from "../kube/status-writer.ts";
import type { Identities } from "../pki/identity.ts";
import type { ClaimUse } from "../pods/claim-holder.ts";
import { claimReach, claimUse } from "../pods/claim-use.ts";
import { checkHash, checkPod } from "./check-pod.ts";
import { anywhere, claimPlace } from "./core/claim-place.ts";
import { type Action, type Decision, decide, isOver } from "./core/decide.ts";
import { nodeLost } from "./core/ends.ts";
import { imageOf, type Observed } from "./core/observed.ts";
import { type PodView, podView } from "./core/pod-view.ts";
import { membersOf, wantedReplicas } from "./core/spawn.ts";
import { claimsOf, type TrainingSettings, templateHash, templateProblems, trainingPod } from "./pod.ts";
import type { PodGroups } from "./pod-groups.ts";
import type { PodTalks } from "./pod-talks.ts";

const manager = "enodia-operator";
/** Polls until a silent pod on an unready node is lost. */
const silentMin = 2;

export interface ReconcilerParts {
  readonly kube: Kube;
  readonly informers: Pick<Informers, "get" | "list" | "served" | "mounting" | "seesNodes">;
  readonly status: StatusWriter<MoETrainingJobStatus>;
  readonly settings: TrainingSettings;
  readonly talks: Pick<PodTalks, "reports" | "silence" | "tell" | "forget">;
  readonly identities: Pick<Identities, "ensureAll" | "operator" | "forget">;
  readonly groups: Pick<PodGroups, "keep" | "forget">;
  readonly now: () => Date;
}

interface Seen extends Observed {
  readonly scheduler: GangScheduler | undefined;
  /** Why it is unknown where its pods may run, so that none is made. */
  readonly placeless?: AppError;
}

export class TrainingReconciler {
  readonly #parts: ReconcilerParts;
  readonly #uids = new Map<string, string>();

  constructor(parts: ReconcilerParts) {
    this.#parts = parts;
  }

  async reconcile(ref: Ref): Promise<Outcome> {
    const { informers, status, talks, identities, groups } = this.#parts;
    const key = `${ref.namespace}/${ref.name}`;
    const object = informers.get("moeTrainingJobs", ref);
    const known = this.#uids.get(key);
    if (known !== undefined && known !== object?.metadata.uid) {
      status.forget(known);
      identities.forget(known);
      groups.forget(known);
    }
    if (object === undefined) talks.forget(key);
    if (object === undefined) this.#uids.delete(key);
    else this.#uids.set(key, object.metadata.uid ?? "");
    if (object === undefined || object.metadata.deletionTimestamp !== undefined) return {};
    const job = await this.#parse(object);
    return job === undefined ? {} : this.#step(job);
  }

  /** Undefined where the job cannot be read; its status says why. */
  async #parse(object: KubeObject): Promise<MoETrainingJob | undefined> {
    try {
      return parseMoETrainingJob(object);
    } catch (caught) {
      const { message, code } = AppError.from(caught);
      const observedGeneration = object.metadata.generation ?? 0;
      await this.#parts.status.refuse(object, { type: "SpecAccepted", status: "False", reason: code, message, observedGeneration });
      return undefined;
    }
  }

  async #step(job: MoETrainingJob): Promise<Outcome> {
    const { status } = this.#parts;
    const observed = await this.#placed(this.#observe(job));
    const { decision, ungrouped } = await this.#decide(observed);
    await status.write(job, decision.status);
    const actions = decision.actions.filter(({ kind }) => kind === "delete" || observed.placeless === undefined);
    const podRefused = await this.#execute(observed, actions);
    const uncertified = await this.#meet(observed, decision);
    if (podRefused !== undefined) return this.#tellRefusal({ ...observed, podRefused });
    const failed = uncertified ?? ungrouped ?? observed.placeless;
    if (failed !== undefined) throw failed;
    return outcomeOf(decision);
  }

  /** No pod is created that would wait for a missing PodGroup. */
  async #decide(seen: Seen): Promise<{ readonly decision: Decision; readonly ungrouped: AppError | undefined }> {
    const { job, scheduler } = seen;
    const decision = decide(seen);
    const members = scheduler && decision.gathers ? membersOf({ ...seen, status: decision.status }, scheduler.name) : 0;
    const { problems, failure } = await this.#parts.groups.keep(job, scheduler && members > 0 ? { scheduler, members } : undefined);
    if (problems.length > 0) return { decision: decide({ ...seen, groupProblems: problems }), ungrouped: failure };
    const actions = failure ? decision.actions.filter(({ kind }) => kind !== "create") : decision.actions;
    return { decision: { ...decision, actions }, ungrouped: failure };
  }

  /** Returns why some pods lack a certificate. */
  async #meet({ job, pods }: Observed, { status, restless, stops }: Decision): Promise<AppError | undefined> {
    const { talks, identities } = this.#parts;
    const { namespace, name, uid } = job.metadata;
    const key = `${namespace}/${name}`;
    const there = pods.filter(({ over, rank, deleting }) => over === undefined && rank >= 0 && (deleting || !isOver(status)));
    if (there.length === 0) {
      talks.forget(key);
      return undefined;
    }
    const failed = await identities.ensureAll(job, there, { gateways: "none", roles: [] });
    const identity = await identities.operator({ namespace, name }, uid);
    const contacts = there.flatMap(({ running, ip, rank, ...pod }) =>
      running && ip !== undefined ? [{ uid: pod.uid, rank, ip, stops: stops.has(pod.uid) }] : [],
    );
    talks.tell(key, { namespace, job: name, jobUid: uid, identity, world: status.world, restless }, contacts);
    return failed;
  }

  async #tellRefusal(observed: Observed): Promise<Outcome> {
    const { job } = observed;
    const decision = decide({ ...observed, status: this.#parts.status.latest(job) });
    await this.#parts.status.write(job, decision.status);
    return outcomeOf(decision);
  }

  #observe(job: MoETrainingJob): Seen {
    const { informers, status: writer, settings, talks, now } = this.#parts;
    const status = writer.latest(job);
    const { namespace, name, uid } = job.metadata;
    const here = (object: KubeObject): boolean => object.metadata.namespace === namespace;
    const [own, others] = ofOwner(uid, informers.list("trainingPods", here));
    const [checks, pods] = [own.filter(isCheck), own.filter((pod) => !isCheck(pod))];
    const alone = wantedReplicas(job, status) === 1;
    const views = pods.map((pod) => this.#view(pod, job, alone));
    const { scheduler, refusals } = chooseScheduler(job.spec, (resource) => informers.served(resource, namespace));
    return {
      job,
      status,
      pods: views,
      checks: checks.map((pod) => this.#unlessLost(podView(pod))),
      rival: rivalOf(job, informers.list("moeTrainingJobs", here)),
      otherWriters: otherWriters(
        job,
        others.filter((pod) => !isCheck(pod)),
      ),
      reports: talks.reports(`${namespace}/${name}`),
      image: settings.trainingImage,
      templateHash: (image) => templateHash(job, image),
      checkHash: (image) => checkHash(job, image),
      templateProblems: [...templateProblems(job, settings), ...refusals],
      scheduler,
      groupProblems: [],
      podRefused: undefined,
      place: anywhere,
      now: now(),
    };
  }

  /** Reads the claims only where a pod is to be made, or does not run yet. */
  async #placed(seen: Seen): Promise<Seen> {
    const { job, status, pods, checks, now } = seen;
    const { namespace, name } = job.metadata;
    const ranks = wantedReplicas(job, status);
    const there = [...pods, ...checks].filter(({ over }) => over === undefined);
    const settled = there.length >= ranks && there.every(({ running }) => running) && status.check?.generation === job.metadata.generation;
    if (isOver(status) || job.spec.suspend || settled) return seen;
    const claims = claimsOf(job).map(({ claim }) => claim);
    const { nodeName } = (job.spec.podTemplate?.spec ?? {}) as { readonly nodeName?: string };
    try {
      const found = await Promise.all(
        claims.map((claim) => this.#parts.kube.get(resources.persistentVolumeClaims, { namespace, name: claim })),
      );
      const reaches = new Map(found.flatMap((one) => (one ? [[one.metadata.name, claimReach(one)] as const] : [])));
      const uses = claims.flatMap((claim) => this.#uses({ namespace, name: claim }, now));
      return { ...seen, place: claimPlace({ job: name, ranks, reaches, uses, pods: there, nodeName }) };
    } catch (caught) {
      return { ...seen, placeless: AppError.from(caught, "reading the job's claims") };
    }
  }

  #uses({ namespace, name }: Ref, now: Date): ClaimUse[] {
    const { informers } = this.#parts;
    return informers.mounting({ namespace, name }).flatMap((pod) => {
      const use = claimUse(pod, name);
      const isGone = informers.seesNodes && use && isSilent(informers.get("nodes", { namespace: "", name: use.node }), use.createdMs, now);
      return use && !isGone ? [{ ...use, model: undefined }] : [];
    });
  }

  /** The other ranks accept nothing from a silent pod on a lost node. A job's only rank is waited for, since nobody would stop its writes. */
  #view(object: KubeObject, { metadata }: MoETrainingJob, alone: boolean): PodView {
    const silence = this.#parts.talks.silence(`${metadata.namespace}/${metadata.name}`, object.metadata.uid ?? "");
    const view = { ...podView(object, silence > 0), gang: gangOf(object.metadata) };
    return alone || silence < silentMin ? view : this.#unlessLost(view);
  }

  #unlessLost(view: PodView): PodView {
    if (view.over !== undefined || view.node === "") return view;
    const node = this.#parts.informers.get("nodes", { namespace: "", name: view.node });
    const ready = (node?.status as NodeStatus | undefined)?.conditions?.find(({ type }) => type === "Ready");
    if (ready === undefined || ready.status === "True") return view;
    const message = `node ${view.node} is not ready: ${ready.reason ?? "it says nothing"}`;
    return { ...view, over: { end: undefined, disrupted: true, reason: nodeLost, message } };
  }

  async #execute(observed: Seen, actions: readonly Action[]): Promise<string | undefined> {
    const { kube } = this.#parts;
    const { namespace } = observed.job.metadata;
    for (const action of actions) {
      if (action.kind === "delete") {
        await kube.delete(resources.pods, { namespace, name: action.name }, { uid: action.uid });
        continue;
      }
      const refused = await this.#create(observed, action);
      if (refused !== undefined) return refused;
    }
    return undefined;
  }

  async #create(observed: Seen, action: Exclude<Action, { readonly kind: "delete" }>): Promise<string | undefined> {
    const { kube } = this.#parts;
    const { job } = observed;
    const pod = this.#pod(observed, action);
    try {
      await kube.create(resources.pods, pod, { manager });
      return undefined;
    } catch (caught) {
      const error = AppError.from(caught);
      if (error.code === "AlreadyExists") return this.#nameTaken(job, pod.metadata.name);
      if (error.code === "Invalid" || error.code === "Forbidden") return error.message;
      throw error;
    }
  }

  #pod(observed: Seen, action: Exclude<Action, { readonly kind: "delete" }>): KubeObject {
    const { job, status, scheduler, place } = observed;
    const { settings } = this.#parts;
    const { node } = place;
    const [image, { attempt }] = [imageOf(observed), action];
    if (action.kind === "create") return trainingPod(job, settings, { image, rank: action.rank, attempt, scheduler, node });
    return checkPod(job, settings, { image, attempt, node, ranks: wantedReplicas(job, status) });
  }

  /** Whose pod has the name: ours, which the cache lacks yet, or another's. */
  async #nameTaken({ metadata }: MoETrainingJob, name: string): Promise<string | undefined> {
    const found = await this.#parts.kube.get(resources.pods, { namespace: metadata.namespace, name });
    const ours = found === undefined || found.metadata.ownerReferences?.some(({ uid }) => uid === metadata.uid);
    return ours ? undefined : `a pod ${name} that is not of this job has its name; delete it`;
  }
}

interface NodeStatus {
  readonly conditions?: readonly { readonly type: string; readonly status: string; readonly reason?: string }[];
}

/** A node that is not in the cache yet this long after its pod was made is gone. */
const unknownNodeMs = 30_000;

function isSilent(node: KubeObject | undefined, createdMs: number, now: Date): boolean {
  const ready = (node?.status as NodeStatus | undefined)?.conditions?.find(({ type }) => type === "Ready");
  return node === undefined ? now.getTime() - createdMs > unknownNodeMs : ready?.status === "Unknown";
}

const isCheck = ({ metadata }: KubeObject): boolean => metadata.labels?.[labels.component] === checkerComponent;

function ofOwner(uid: string, pods: readonly KubeObject[]): readonly [own: KubeObject[], others: KubeObject[]] {
  const owned = (pod: KubeObject): boolean => pod.metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;
  return [pods.filter(owned), pods.filter((pod) => !owned(pod))];
}

const outcomeOf = ({ requeueAfterMs }: Decision): Outcome => (requeueAfterMs === undefined ? {} : { requeueAfterMs });

const outputOf = ({ spec }: KubeObject): unknown => (spec as { readonly output?: { readonly uri?: unknown } } | undefined)?.output?.uri;

/** Sortable; the uid breaks ties of one second. */
const ageOf = ({ metadata }: KubeObject): string => `${metadata.creationTimestamp ?? ""} ${metadata.uid ?? ""}`;

/** An older, unfinished job with the same folder. */
function rivalOf({ metadata, spec }: MoETrainingJob, jobs: readonly KubeObject[]): string | undefined {
  const own = jobs.find(({ metadata: { uid } }) => uid === metadata.uid);
  if (own === undefined) return undefined;
  const older = jobs.find(
    (job) =>
      outputOf(job) === spec.output.uri &&
      job.metadata.deletionTimestamp === undefined &&
      ageOf(job) < ageOf(own) &&
      !isOver(moeTrainingJobStatusSchema.safeParse(job.status ?? {}).data ?? {}),
  );
  return older?.metadata.name;
}

/** Pods of a deleted namesake, or of another job with the same output, that may still write. */
function otherWriters({ metadata, spec }: MoETrainingJob, pods: readonly KubeObject[]): readonly string[] {
  const writes = (pod: KubeObject): boolean =>
    pod.metadata.labels?.[labels.trainingJob] === metadata.name || pod.metadata.annotations?.[annotations.output] === spec.output.uri;
  return pods.filter((pod) => writes(pod) && podView(pod).over === undefined).map((pod) => pod.metadata.name);
}
