// The training plane on the in-memory API, with a kubelet and training pods played here: what tests of the plane begin with.

import { labels } from "../../../crds/common.ts";
import { type MoETrainingJobStatus, moeTrainingJobStatusSchema } from "../../../crds/moe-training-job-status.ts";
import { checkerComponent } from "../../../crds/training-process.ts";
import type { TrainingEnd, TrainingReport } from "../../../crds/training-report.ts";
import type { PodReport } from "../../../crds/training-world.ts";
import { EventRecorder } from "../../../operator/kube/events.ts";
import { Informers } from "../../../operator/kube/informers.ts";
import { type KubeObject, resources } from "../../../operator/kube/kube.ts";
import { createTrainingPlane, type TrainingPlane } from "../../../operator/training/plane.ts";
import type { Question } from "../../../operator/training/pod-talks.ts";
import { FakeKube } from "../kube/fake-kube.ts";
import { until } from "../wait.ts";

export const ref = { namespace: "ns", name: "j" };
export const user = { manager: "user" };
const running: (() => Promise<void>)[] = [];
/** To be called after all tests of a file. */
export const stopPlanes = () => Promise.all(running.map((stop) => stop()));

const spec = {
  model: { uri: "pvc://models/m" },
  data: { uri: "pvc://data/d" },
  steps: 100,
  memoryPerRank: "1Gi",
  threadsPerRank: 2,
  output: { uri: "pvc://models/out" },
};
export const object = (change: object = {}): KubeObject => ({
  apiVersion: "enodia.dev/v1alpha1",
  kind: "MoETrainingJob",
  metadata: { ...ref },
  spec: { ...spec, ...change },
});

export class PlaneWorld {
  readonly kube = new FakeKube();
  report: TrainingReport = { curve: [] };
  /** What pods were told last, by uid, and what they said of leaving a world. */
  readonly told = new Map<string, Question>();
  readonly left = new Map<string, PodReport["left"]>();
  leastRanks = 1;
  /** The end of pods that check; without one they have none. */
  checkEnd: TrainingEnd | undefined = { outcome: "Fits", message: "it fits" };
  skippedMs = 0;
  networkPolicies: { readonly operatorNamespace: string } | undefined;
  plane: TrainingPlane | undefined;

  async start(image = "enodia/training:1"): Promise<void> {
    const { kube, networkPolicies } = this;
    const informers = new Informers([], "enodia-system", { kube, random: () => 0 });
    const events = new EventRecorder({ kube, reportingInstance: "test" });
    const common = { trainingImage: image, pullPolicy: "IfNotPresent", logLevel: "info", namespace: "enodia-system" } as const;
    const settings = { ...common, networkPolicies };
    const now = () => new Date(Date.now() + this.skippedMs);
    const plane = createTrainingPlane({ kube, informers, events, settings, ask: (question) => this.answer(question), now });
    informers.start();
    await informers.refresh();
    plane.controller.start();
    this.plane = plane;
    const checking = setInterval(() => this.#check(), 5);
    let stopped: Promise<unknown> | undefined;
    this.stop = async () => {
      clearInterval(checking);
      stopped ??= Promise.all([plane.stop(), informers.stop()]);
      await stopped;
    };
    running.push(this.stop);
  }
  stop: () => Promise<void> = async () => {};

  /** A pod that takes what it is told. */
  async answer(question: Question): Promise<PodReport> {
    const { uid, order } = question;
    this.told.set(uid, question);
    const left = this.left.get(uid);
    const epoch = order.world?.epoch ?? 0;
    const training = (left?.epoch ?? 0) < epoch ? epoch : 0;
    return { pod: uid, epoch, training, leastRanks: this.leastRanks, ...(left && { left }), progress: this.report };
  }

  async look(): Promise<void> {
    this.plane?.controller.queue.add("ns/j");
  }

  /** Those that train. */
  get pods(): any[] {
    return this.kube.all(resources.pods).filter((pod: any) => pod.metadata.labels[labels.component] !== checkerComponent);
  }

  /** Those that check jobs. */
  get checks(): any[] {
    return this.kube.all(resources.pods).filter((pod: any) => pod.metadata.labels[labels.component] === checkerComponent);
  }

  /** As jobs are checked that fit, which is what tests are about where they say nothing else. */
  #check(): void {
    for (const { metadata, status } of this.checks)
      if (this.checkEnd !== undefined && status?.phase === undefined) this.end(metadata.name, this.checkEnd);
  }

  async pod(name: string): Promise<any> {
    await until(`pod ${name}`, () => this.pods.some((one) => one.metadata.name === name));
    return this.pods.find((one) => one.metadata.name === name);
  }

  async status(): Promise<MoETrainingJobStatus> {
    return moeTrainingJobStatusSchema.parse((await this.kube.get(resources.moeTrainingJobs, ref))?.status ?? {});
  }

  async condition(type: string): Promise<string> {
    const found = (await this.status()).conditions?.find((one) => one.type === type);
    return `${found?.status} ${found?.reason}`;
  }

  set(name: string, status: object): void {
    this.kube.mutate(resources.pods, { namespace: "ns", name }, (pod) => Object.assign(pod, { status }), { subresource: "status" });
  }

  run(name: string, podIP = "10.0.0.1"): void {
    this.set(name, { phase: "Running", podIP });
  }

  end(name: string, end: TrainingEnd | undefined): void {
    const terminated = { exitCode: end?.outcome === "Complete" ? 0 : 1, message: end === undefined ? "" : JSON.stringify(end) };
    const containerStatuses = [{ name: "runtime", state: { terminated } }];
    this.set(name, { phase: end?.outcome === "Complete" ? "Succeeded" : "Failed", containerStatuses });
  }
}
