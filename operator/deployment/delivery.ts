// The shell around core/delivery.ts: gathers the Jobs that download a deployment's model and their pods, makes and removes Jobs, and has
// the running pod asked how far it is. A Job is made once and never changed; everything may be repeated.

import { z } from "zod";
import { AppError, labels } from "../../crds/common.ts";
import { downloaderComponent, readDownloadEnd } from "../../crds/download.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { seedComponent } from "../../crds/seed.ts";
import { manager } from "../kube/adoption.ts";
import { hasCode } from "../kube/errors.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, keyOf, resources } from "../kube/kube.ts";
import type { Identities } from "../pki/identity.ts";
import { type DeliveryInput, type DeliveryPlan, type JobFacts, planDelivery } from "./core/delivery.ts";
import { type SeedVerdict, seedVerdict } from "./core/seed.ts";
import { ofModel, type RenderContext, type SeedWish } from "./objects/context.ts";
import { downloadJob } from "./objects/download-job.ts";
import { downloadJobName, modelOfPod, modelPlace, modelText, workFolders } from "./objects/model-place.ts";
import { podSight } from "./observe.ts";
import type { ProgressTalks } from "./progress-talks.ts";
import type { KeptModel } from "./seeding.ts";

/** A Job that could not be made is tried again after this. */
const unmadeMs = 10_000;
/** Pods that a message names. */
const namedMax = 4;

export interface DeliveryDeps {
  readonly kube: Kube;
  readonly informers: Pick<Informers, "covers" | "get" | "list" | "ofDeployment" | "ownedBy">;
  readonly identities: Pick<Identities, "ensureRole" | "operator">;
  readonly talks: ProgressTalks;
  readonly now: () => Date;
  /** Milliseconds for ages alone. */
  readonly ticks: () => number;
}

export interface Delivery extends Pick<DeliveryPlan, "pending" | "revision" | "againInMs">, Pick<SeedVerdict, "away"> {
  /** The seed as it is to be; undefined where ranks mount the model. */
  readonly seed: SeedWish | undefined;
  /** The first error; the rest of the pass goes on. */
  readonly failure: AppError | undefined;
}

/** What is seen of the ranks. */
export interface RanksSight {
  /** They have the model from a seed. */
  readonly seeded: boolean;
  /** One of them has opened the model of the seed, and serves. */
  readonly serving: boolean;
  /** The model that the seed keeps; that of the spec where it is not given. */
  readonly keeps: KeptModel | undefined;
}

/** The pass after it is known whether the spec is refused. */
const judgedMs = 1_000;
const unjudged = { reason: "SeedNotReady", message: "the seed gets the model once the spec is known to be good", words: undefined };

export class Deliveries {
  readonly #deps: DeliveryDeps;
  /** By the deployment's uid: why the Job of that name was refused. */
  readonly #unmade = new Map<string, { readonly job: string; readonly message: string; readonly until: number }>();

  constructor(deps: DeliveryDeps) {
    this.#deps = deps;
  }

  /** One look: what is to be done is done, and what is to be said returned. `context` has the image that runtime pods are made with. */
  async run(context: RenderContext, sight: RanksSight): Promise<Delivery> {
    const delivery = await this.#download(context);
    const { suspend } = context.deployment.spec;
    if (!sight.seeded) return { ...delivery, seed: undefined, away: "" };
    // A download and a seed would want the claim on two nodes.
    const replicas: SeedWish["replicas"] = suspend || delivery.pending ? 0 : 1;
    const { keeps } = sight;
    if (delivery.pending) return { ...delivery, seed: { replicas, keeps }, away: "" };
    try {
      const { verdict, againInMs } = await this.#seed(ofModel(context.deployment, keeps), sight.serving);
      if (!keeps) return { ...delivery, ...verdict, seed: { replicas }, againInMs: againInMs ?? delivery.againInMs };
      // Nothing that the seed of before lacks is in the way of a spec that does not want it any more.
      const told = { ...delivery, away: verdict.away, seed: { replicas, keeps } };
      return keeps.asks ? { ...told, pending: unjudged, againInMs: judgedMs } : { ...told, againInMs: againInMs ?? delivery.againInMs };
    } catch (caught) {
      const failure = delivery.failure ?? AppError.from(caught, "looking at the seed");
      return { ...delivery, seed: { replicas, keeps }, away: "", failure };
    }
  }

  async #seed(deployment: MoEDeployment, serving: boolean) {
    const { informers, now, talks, identities } = this.#deps;
    const { metadata, spec } = deployment;
    // Before its pod: the kubelet tells a pod of a Secret that came after it a minute or two later.
    await identities.ensureRole(deployment, "seed");
    const place = modelText(modelPlace(spec));
    const own = informers.ofDeployment("pods", metadata).filter((pod) => pod.metadata.labels?.[labels.component] === seedComponent);
    const sights = own.map((pod) => ({ pod, ...podSight(pod, now().getTime()) })).filter(({ ended }) => ended === undefined);
    const running = sights.find(({ running: runs, ip, ready }) => runs && !ready && ip !== undefined);
    const downloads = spec.model.cache?.ephemeral !== undefined;
    const key = keyOf(metadata);
    const pods = sights.map(({ pod, ready, problem }) => ({
      uid: pod.metadata.uid ?? "",
      name: pod.metadata.name,
      ready,
      problem,
      createdMs: Date.parse(pod.metadata.creationTimestamp ?? "") || 0,
      current: modelOfPod(pod) === place && pod.metadata.deletionTimestamp === undefined,
    }));
    const words = downloads ? talks.words(key, running?.pod.metadata.uid) : undefined;
    const verdict = seedVerdict({ downloads, suspended: spec.suspend, pods, words, serving });
    const asks = downloads && running?.ip !== undefined && !spec.suspend;
    const againInMs = asks ? await this.#ask(deployment, running.pod.metadata.uid ?? "", running.ip ?? "") : undefined;
    if (downloads && !asks) talks.forget(key);
    return { verdict, againInMs };
  }

  /** The Job of a model that is downloaded into a claim. */
  async #download(context: RenderContext): Promise<Omit<Delivery, "seed" | "away">> {
    const { deployment } = context;
    const { uid, namespace, name } = deployment.metadata;
    const now = this.#deps.now().getTime();
    const wanted = downloadJobName(deployment);
    const { jobs, pods, writers } = this.#observe(deployment, wanted);
    const running = pods.find((pod) => pod.job === wanted && pod.ip !== undefined && pod.end === undefined);
    const key = keyOf({ namespace, name });
    const refused = this.#unmade.get(uid);
    const unmade = refused && refused.job === wanted && this.#deps.ticks() < refused.until ? refused.message : "";
    const words = this.#deps.talks.words(key, running?.uid);
    const plan = planDelivery({ wanted, suspended: deployment.spec.suspend, jobs, pods, writers, words, unmade, now });
    const { pending, revision } = plan;
    try {
      const told = await this.#act(context, plan, unmade !== "");
      const askInMs = pending && running?.ip !== undefined ? await this.#ask(deployment, running.uid, running.ip) : undefined;
      if (running === undefined && deployment.spec.model.cache?.ephemeral === undefined) this.#deps.talks.forget(key);
      const waits = [plan.againInMs, askInMs, unmade === "" && told === undefined ? undefined : unmadeMs];
      const againInMs = waits.filter((ms) => ms !== undefined).sort((a, b) => a - b)[0];
      return {
        pending: pending && told ? { ...pending, reason: "JobRefused", message: told } : pending,
        revision,
        againInMs,
        failure: undefined,
      };
    } catch (caught) {
      return { pending, revision, againInMs: plan.againInMs, failure: AppError.from(caught, "downloading the model") };
    }
  }

  forget(uid: string, key: string): void {
    this.#unmade.delete(uid);
    this.#deps.talks.forget(key);
  }

  /** Returns why the Job could not be made. */
  async #act(context: RenderContext, { remove, create }: DeliveryPlan, waits: boolean): Promise<string | undefined> {
    const { kube } = this.#deps;
    const { namespace } = context.deployment.metadata;
    for (const { name, uid } of remove) await kube.delete(resources.jobs, { namespace, name }, { uid });
    return create === undefined || waits ? undefined : this.#create(context, create);
  }

  async #create(context: RenderContext, name: string): Promise<string | undefined> {
    const { kube, identities, informers, ticks } = this.#deps;
    const { deployment } = context;
    const { uid, namespace } = deployment.metadata;
    const inUse = workFolders(informers.list("moeDeployments", ({ metadata }) => metadata.namespace === namespace));
    // Before its pod: the kubelet tells a pod of a Secret that came after it a minute or two later.
    await identities.ensureRole(deployment, "downloader");
    try {
      await kube.create(resources.jobs, downloadJob(context, name, inUse), { manager });
      this.#unmade.delete(uid);
      return undefined;
    } catch (caught) {
      const error = AppError.from(caught);
      const message = hasCode(error, "AlreadyExists") ? await this.#foreign(namespace, name, uid) : error.message;
      if (message === undefined) return undefined;
      if (!hasCode(error, "AlreadyExists", "Invalid", "Forbidden")) throw error;
      this.#unmade.set(uid, { job: name, message, until: ticks() + unmadeMs });
      return message;
    }
  }

  /** Undefined where the Job is ours, which the cache does not show yet, or is gone. */
  async #foreign(namespace: string, name: string, uid: string): Promise<string | undefined> {
    const found = await this.#deps.kube.get(resources.jobs, { namespace, name });
    if (found === undefined || owns(found, uid)) return undefined;
    return `Job ${name} exists and does not belong to this MoEDeployment; delete or rename it`;
  }

  async #ask({ metadata }: MoEDeployment, uid: string, ip: string): Promise<number> {
    const { name, namespace } = metadata;
    const ref = { namespace, name };
    return this.#deps.talks.ask({ ref, uid, ip, identity: await this.#deps.identities.operator(ref, metadata.uid) });
  }

  #observe({ metadata }: MoEDeployment, wanted: string | undefined): Pick<DeliveryInput, "jobs" | "pods" | "writers"> {
    const { informers, now } = this.#deps;
    const at = now().getTime();
    const jobs = informers.ownedBy("jobs", metadata.uid);
    const uids = new Map(jobs.map((job) => [job.metadata.uid, job.metadata.name]));
    const jobOf = ({ metadata: { ownerReferences } }: KubeObject) =>
      ownerReferences?.map(({ uid }) => uids.get(uid)).find((name) => name !== undefined);
    const all = informers.ofDeployment("pods", metadata).filter(isDownload);
    const pods = all.filter((pod) => jobOf(pod) !== undefined);
    const current = jobs.some(({ metadata: { name } }) => name === wanted) ? wanted : undefined;
    return {
      writers: all
        .filter((pod) => podSight(pod, at).ended === undefined && (current === undefined || jobOf(pod) !== current))
        .map(({ metadata: { name } }) => name)
        .slice(0, namedMax),
      jobs: jobs.map((job) => jobFacts(job, at)),
      pods: pods.map((pod) => {
        const { ip, running, problem, ended } = podSight(pod, at);
        const createdMs = Date.parse(pod.metadata.creationTimestamp ?? "") || 0;
        const end = ended === undefined ? undefined : (readDownloadEnd(ended) ?? { reason: "DownloadFailed", message: ended });
        return { uid: pod.metadata.uid ?? "", job: jobOf(pod) ?? "", ip: running ? ip : undefined, createdMs, problem, end };
      }),
    };
  }
}

const isDownload = ({ metadata }: KubeObject): boolean => metadata.labels?.[labels.component] === downloaderComponent;

const owns = ({ metadata }: KubeObject, uid: string): boolean => metadata.ownerReferences?.some((owner) => owner.uid === uid) ?? false;

const conditionSchema = z.object({
  type: z.string(),
  status: z.string(),
  reason: z.string().default(""),
  message: z.string().default(""),
  lastTransitionTime: z.string().default(""),
});
const jobStatusSchema = z.object({ conditions: z.array(conditionSchema).default([]) }).prefault({});

function jobFacts({ metadata, status }: KubeObject, now: number): JobFacts {
  const conditions = jobStatusSchema.safeParse(status).data?.conditions ?? [];
  const holds = (type: string) => conditions.find((one) => one.type === type && one.status === "True");
  const failed = holds("Failed");
  return {
    name: metadata.name,
    uid: metadata.uid ?? "",
    state: failed ? "Failed" : holds("Complete") ? "Complete" : "Running",
    failedMs: failed ? Date.parse(failed.lastTransitionTime) || now : undefined,
    message: failed ? `${failed.reason}: ${failed.message}` : "",
    terminating: metadata.deletionTimestamp !== undefined,
  };
}
