// One look at a training job: gather what is observed, decide (core/decide.ts), write the status, then delete and make pods. Everything
// may be repeated: deletions name a uid, and the name of a pod is that of its attempt.
import { AppError } from "../../crds/common.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import type { TrainingReport } from "../../crds/training-report.ts";
import type { Informers } from "../deployment/informers.ts";
import type { Outcome } from "../kube/controller.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import { type Action, type Decision, decide, imageOf, isOver, type Observed } from "./core/decide.ts";
import { type PodView, podView } from "./core/pod-view.ts";
import { otherWriters, rivalOf } from "./output.ts";
import { type TrainingSettings, templateHash, templateProblems, trainingPod } from "./pod.ts";
import type { ProgressReports } from "./progress-reports.ts";
import type { StatusWriter } from "./status-writer.ts";

const manager = "enodia-operator";

export interface ReconcilerParts {
  readonly kube: Kube;
  readonly informers: Pick<Informers, "get" | "list">;
  readonly status: StatusWriter;
  readonly settings: TrainingSettings;
  readonly reports: Pick<ProgressReports, "of" | "forget">;
  readonly now: () => Date;
}

export class TrainingReconciler {
  readonly #parts: ReconcilerParts;
  readonly #uids = new Map<string, string>();

  constructor(parts: ReconcilerParts) {
    this.#parts = parts;
  }

  async reconcile(ref: Ref): Promise<Outcome> {
    const { informers, status, reports } = this.#parts;
    const key = `${ref.namespace}/${ref.name}`;
    const object = informers.get("moeTrainingJobs", ref);
    const known = this.#uids.get(key);
    if (known !== undefined && known !== object?.metadata.uid) status.forget(known);
    if (object === undefined) reports.forget(key);
    if (object === undefined) this.#uids.delete(key);
    else this.#uids.set(key, object.metadata.uid ?? "");
    if (object === undefined || object.metadata.deletionTimestamp !== undefined) return {}; // its pods go with it
    const job = await this.#parse(object);
    return job === undefined ? {} : this.#step(job);
  }

  /** The job; where it cannot be read, its status says so. */
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
    const observed = this.#observe(job);
    const decision = decide(observed);
    await status.write(job, decision.status);
    const podRefused = await this.#execute(observed, decision.actions);
    return podRefused === undefined ? outcomeOf(decision) : this.#tell({ ...observed, podRefused });
  }

  async #tell(observed: Observed): Promise<Outcome> {
    const { job } = observed;
    const decision = decide({ ...observed, status: this.#parts.status.latest(job) });
    await this.#parts.status.write(job, decision.status);
    return outcomeOf(decision);
  }

  #observe(job: MoETrainingJob): Observed {
    const { informers, status: writer, settings, now } = this.#parts;
    const status = writer.latest(job);
    const { namespace, uid } = job.metadata;
    const here = (object: KubeObject): boolean => object.metadata.namespace === namespace;
    const [pods, others] = ofOwner(uid, informers.list("trainingPods", here));
    const views = pods.map(podView);
    return {
      job,
      status,
      pods: views,
      rival: rivalOf(job, informers.list("moeTrainingJobs", here)),
      otherWriters: otherWriters(job, others),
      report: this.#reportOf(job, isOver(status) ? [] : views),
      image: settings.trainingImage,
      templateHash: (image) => templateHash(job, image),
      templateProblems: templateProblems(job, settings),
      podRefused: undefined,
      now: now(),
    };
  }

  #reportOf({ metadata }: MoETrainingJob, pods: readonly PodView[]): TrainingReport | undefined {
    const { reports } = this.#parts;
    const key = `${metadata.namespace}/${metadata.name}`;
    for (const { running, over, ip, uid } of pods)
      if (running && over === undefined && ip !== undefined) return reports.of(key, { uid, ip });
    reports.forget(key);
    return undefined;
  }

  /** Returns what the API server said where it refused the pod. */
  async #execute(observed: Observed, actions: readonly Action[]): Promise<string | undefined> {
    const { kube } = this.#parts;
    const { namespace } = observed.job.metadata;
    for (const action of actions) {
      if (action.kind === "delete") await kube.delete(resources.pods, { namespace, name: action.name }, { uid: action.uid });
      else return this.#create(observed, action.attempt);
    }
    return undefined;
  }

  async #create(observed: Observed, attempt: number): Promise<string | undefined> {
    const { kube, settings } = this.#parts;
    const { job } = observed;
    const pod = trainingPod(job, settings, { image: imageOf(observed), attempt });
    try {
      await kube.create(resources.pods, pod, { manager });
      return undefined;
    } catch (caught) {
      const error = AppError.from(caught);
      if (error.code === "AlreadyExists") return this.#standing(job, pod.metadata.name);
      if (error.code === "Invalid" || error.code === "Forbidden") return error.message;
      throw error;
    }
  }

  /** The pod that has the name already: ours, which the cache does not show yet, or another's. */
  async #standing({ metadata }: MoETrainingJob, name: string): Promise<string | undefined> {
    const found = await this.#parts.kube.get(resources.pods, { namespace: metadata.namespace, name });
    const ours = found === undefined || found.metadata.ownerReferences?.some(({ uid }) => uid === metadata.uid);
    return ours ? undefined : `a pod ${name} that is not of this job has its name; delete it`;
  }
}

/** The pods of this object, and all others. */
function ofOwner(uid: string, pods: readonly KubeObject[]): readonly [own: KubeObject[], others: KubeObject[]] {
  const owned = (pod: KubeObject): boolean => pod.metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;
  return [pods.filter(owned), pods.filter((pod) => !owned(pod))];
}

const outcomeOf = ({ requeueAfterMs }: Decision): Outcome => (requeueAfterMs === undefined ? {} : { requeueAfterMs });
