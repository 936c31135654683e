// Composes the training plane: what wakes a pass over a MoETrainingJob, and whether it may run.
import { apiVersion } from "../../crds/common.ts";
import { type MoETrainingJobStatus, moeTrainingJobStatusSchema } from "../../crds/moe-training-job-status.ts";
import type { PodReport } from "../../crds/training-world.ts";
import { jobKind } from "../kube/adoption.ts";
import { Applier } from "../kube/apply.ts";
import { type Claims, heldByAnother } from "../kube/claims.ts";
import { type Controller, createController, type Observe, type Outcome } from "../kube/controller.ts";
import type { EventRecorder } from "../kube/events.ts";
import { type Grantee, missingGrant } from "../kube/grant.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, keyOf, parseKey, type Ref, refOf } from "../kube/kube.ts";
import type { Watched } from "../kube/resources.ts";
import { ServerClock } from "../kube/server-clock.ts";
import { type StatusEvent, type StatusKind, StatusWriter } from "../kube/status-writer.ts";
import { wake } from "../kube/wake.ts";
import { ticksBeside } from "../kube/workqueue.ts";
import { Authorities, subjectOf } from "../pki/authorities.ts";
import { certifiedJob } from "../pki/certified.ts";
import { Identities } from "../pki/identity.ts";
import type { TrainingSettings } from "./pod.ts";
import { type JobEvent, PodGroups } from "./pod-groups.ts";
import { PodTalks, type Question, tellPod } from "./pod-talks.ts";
import { TrainingReconciler } from "./reconcile.ts";

const workers = 4;
const resyncMs = 60_000;
/** Retry for an unreliable namespace, and for one that is not ours. */
const untrustedMs = 1_000;
const foreignMs = 5_000;

export interface TrainingPlaneOptions {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly events: EventRecorder;
  /** The namespaces of this install; unset = all. */
  readonly claims?: Pick<Claims, "holds" | "holder">;
  /** `namespace`: the operator's, which holds the CAs. */
  readonly settings: TrainingSettings & { readonly namespace: string; readonly grantee?: Grantee | undefined };
  readonly ask?: (question: Question) => Promise<PodReport | undefined>;
  /** The API server's time; without it this machine's. */
  readonly clock?: Pick<ServerClock, "now">;
  /** A test's, for ages too. */
  readonly now?: () => Date;
  readonly observe?: Observe;
}

export interface TrainingPlane {
  readonly controller: Controller;
  stop(): Promise<void>;
}

export function createTrainingPlane(options: TrainingPlaneOptions): TrainingPlane {
  const { kube, informers, events, settings, claims } = options;
  const now = options.now ?? (options.clock ?? new ServerClock()).now;
  const ticks = ticksBeside(options.now);
  const event: JobEvent = ({ metadata }, type, reason, note) => {
    const { name, namespace, uid } = metadata;
    events.record({ regarding: { apiVersion, kind: "MoETrainingJob", namespace, name, uid }, type, reason, note });
  };
  const status = new StatusWriter(jobStatus, { kube, event, now, ticks });
  const ask = options.ask ?? ((question: Question) => tellPod(question));
  const talks = new PodTalks({ ask, onReport: (key) => controller.queue.add(key), now: ticks });
  const certified = { of: certifiedJob, kube, informers, now };
  const authorities = new Authorities({ ...certified, namespace: settings.namespace, event });
  const identities = new Identities({ ...certified, authorities });
  const applier = new Applier({ of: certifiedJob, kube, live: (resource, ref) => informers.live(resource, ref), now: ticks });
  const groups = new PodGroups({ applier, event, networkPolicies: settings.networkPolicies });
  const reconciler = new TrainingReconciler({ kube, informers, status, settings, talks, identities, groups, now });
  const refused = async (ref: Ref): Promise<Outcome | undefined> => {
    const object = informers.get("moeTrainingJobs", ref);
    if (informers.trainingTrouble(ref.namespace) !== undefined) {
      const missing = object && missingGrant(informers, settings.grantee, object);
      if (missing) await status.refuse(object, missing);
      return { requeueAfterMs: untrustedMs };
    }
    if (object === undefined || (claims?.holds(ref.namespace) ?? true)) return undefined;
    const holder = claims?.holder(ref.namespace);
    if (holder !== undefined) tellForeign(object, holder, event);
    return { requeueAfterMs: foreignMs };
  };
  const controller = createController({
    name: "moetrainingjob",
    workers,
    resyncMs,
    keys: () => informers.list("moeTrainingJobs").map((object) => keyOf(refOf(object))),
    reconcile: async (key) => {
      const ref = parseKey(key);
      return (await refused(ref)) ?? reconciler.reconcile(ref);
    },
    ...(options.observe && { observe: options.observe }),
  });
  const stopWaking = wakeAll(informers, identities, (ref) => controller.queue.add(keyOf(ref)));
  return {
    controller,
    stop: async () => {
      stopWaking();
      await controller.stop();
    },
  };
}

function tellForeign({ metadata }: KubeObject, holder: string, event: JobEvent): void {
  const { name, namespace = "", uid = "" } = metadata;
  const { reason, message } = heldByAnother(namespace, holder);
  event({ metadata: { name, namespace, uid } }, "Warning", reason, message);
}

/** Returns the function that stops it. */
function wakeAll(informers: Informers, identities: Identities, add: (ref: Ref) => void): () => void {
  const onOwned = (kind: Watched, object: KubeObject): void => {
    if (kind === "trainingSecrets") identities.changed(object);
  };
  const stops = [
    wake({ of: certifiedJob, informers, objects: "moeTrainingJobs", add, onOwned }),
    informers.onChange("authorities", (secret) => {
      const subject = subjectOf(secret);
      if (subject?.of !== certifiedJob) return;
      identities.changed(secret);
      add(subject.ref);
    }),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}

/** Interval of progress writes; other changes of the status are written at once. */
const progressWriteMs = 5_000;

/** The bad status, if any, of each condition whose change is an event. */
const announced: Readonly<Record<string, "True" | "False" | undefined>> = {
  SpecAccepted: "False",
  Running: undefined,
  Complete: undefined,
  Failed: "True",
};

const warned: readonly string[] = ["Restarting", "RankLost", "FewerRanks"];

const jobStatus: StatusKind<MoETrainingJobStatus> = {
  resource: jobKind.resource,
  read: (status) => moeTrainingJobStatusSchema.safeParse(status ?? {}).data,
  softMs: () => progressWriteMs,
  hard,
  events,
};

function hard(status: MoETrainingJobStatus): unknown {
  const { step: _step, progress: _progress, loss: _loss, validationLoss: _validation, curve: _curve, ...rest } = status;
  const {
    tokensPerSecond: _speed,
    eta: _eta,
    gradientNorm: _norm,
    imbalance: _imbalance,
    spread: _spread,
    copies: _copies,
    ...left
  } = rest;
  return { ...left, conditions: status.conditions?.map(({ message: _message, ...condition }) => condition) };
}

function events(before: MoETrainingJobStatus, after: MoETrainingJobStatus): StatusEvent[] {
  const { world } = after;
  const isNew = world !== undefined && world.epoch !== before.world?.epoch && world.ranks.length > 1;
  const note = isNew ? `world ${world.epoch}: ${world.ranks.length} ranks train together` : "";
  const changed = (after.conditions ?? []).flatMap(({ type, status, reason, message }): StatusEvent[] => {
    if (!(type in announced)) return [];
    const old = before.conditions?.find((one) => one.type === type);
    if (old?.status === status && old.reason === reason) return [];
    if (old === undefined && type === "SpecAccepted" && status === "True") return []; // an accepted spec is no event
    const bad = announced[type] === status || warned.includes(reason);
    return [{ type: bad ? "Warning" : "Normal", reason, note: message }];
  });
  return isNew ? [{ type: "Normal", reason: "NewWorld", note }, ...changed] : changed;
}
