// The training plane as the operator composes it: what wakes a look at a MoETrainingJob, and whether it may be worked on now.
import { type AppError, apiVersion, labels } from "../../crds/common.ts";
import type { TrainingReport } from "../../crds/training-report.ts";
import type { Informers } from "../deployment/informers.ts";
import { type Claims, heldByAnother } from "../kube/claims.ts";
import { type Controller, createController, type Outcome } from "../kube/controller.ts";
import type { EventRecorder } from "../kube/events.ts";
import { type Kube, type KubeObject, keyOf, parseKey, type Ref, refOf } from "../kube/kube.ts";
import type { TrainingSettings } from "./pod.ts";
import { ProgressReports } from "./progress-reports.ts";
import { TrainingReconciler } from "./reconcile.ts";
import { askPod } from "./report.ts";
import { type JobEvent, StatusWriter } from "./status-writer.ts";

const workers = 4;
const resyncMs = 60_000;
/** A namespace whose copy cannot be relied on is looked at again after this, and one that is not ours after the other. */
const untrustedMs = 1_000;
const foreignMs = 5_000;

export interface TrainingPlaneOptions {
  readonly kube: Kube;
  readonly informers: Informers;
  readonly events: EventRecorder;
  /** The namespaces that are this install's to work in; all when not given. */
  readonly claims?: Pick<Claims, "holds" | "holder">;
  readonly settings: TrainingSettings;
  readonly ask?: (ip: string) => Promise<TrainingReport | undefined>;
  readonly now?: () => Date;
  readonly observe?: (result: "ok" | "error" | "requeue", seconds: number, error?: AppError, key?: string) => void;
}

export interface TrainingPlane {
  readonly controller: Controller;
  stop(): Promise<void>;
}

export function createTrainingPlane(options: TrainingPlaneOptions): TrainingPlane {
  const { kube, informers, events, settings, claims } = options;
  const now = options.now ?? (() => new Date());
  const event: JobEvent = ({ metadata }, type, reason, note) => {
    const { name, namespace, uid } = metadata;
    events.record({ regarding: { apiVersion, kind: "MoETrainingJob", namespace, name, uid }, type, reason, note });
  };
  const status = new StatusWriter({ kube, event, now: () => now().getTime() });
  const ask = options.ask ?? askPod;
  const reports = new ProgressReports({ ask, told: (key) => controller.queue.add(key), now: () => now().getTime() });
  const reconciler = new TrainingReconciler({ kube, informers, status, settings, reports, now });
  const refused = (ref: Ref): Outcome | undefined => {
    if (informers.trainingTrouble(ref.namespace) !== undefined) return { requeueAfterMs: untrustedMs };
    const object = informers.get("moeTrainingJobs", ref);
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
      return refused(ref) ?? reconciler.reconcile(ref);
    },
    ...(options.observe && { observe: options.observe }),
  });
  const stops = wake(informers, (ref) => controller.queue.add(keyOf(ref)));
  return {
    controller,
    stop: async () => {
      for (const stop of stops) stop();
      await controller.stop();
    },
  };
}

function tellForeign({ metadata }: KubeObject, holder: string, event: JobEvent): void {
  const { name, namespace = "", uid = "", generation = 0 } = metadata;
  const { reason, message } = heldByAnother(namespace, holder);
  event({ metadata: { name, namespace, uid, generation } }, "Warning", reason, message);
}

/** Changes of a spec and of pods wake; our own writes of a status do not. */
function wake(informers: Informers, add: (ref: Ref) => void): readonly (() => void)[] {
  const seen = new Map<string, string>();
  const jobs = informers.onChange("moeTrainingJobs", (object, change) => {
    const { uid, generation, deletionTimestamp } = object.metadata;
    const key = keyOf(refOf(object));
    const mark = `${uid}/${generation}/${deletionTimestamp ?? ""}`;
    if (change === "set" && seen.get(key) === mark) return;
    if (change === "set") seen.set(key, mark);
    else seen.delete(key);
    add(refOf(object));
  });
  const pods = informers.onChange("trainingPods", ({ metadata }) => {
    const name = metadata.labels?.[labels.trainingJob];
    if (name !== undefined) add({ namespace: metadata.namespace ?? "", name });
  });
  return [jobs, pods];
}
