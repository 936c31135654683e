// Downloads of models as the deployment plane runs them, on the in-memory API: no rank before the model, progress in the status, failures
// with their reason, and a change of model under traffic, in which two models never run side by side.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { DownloadProgress } from "../../crds/download.ts";
import {
  conditionOf,
  kubelet,
  pods,
  readyWith,
  ref,
  startOperator,
  status,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { commit } from "../../test/kit/models/model-hub.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

const model = (uri: string) => ({ uri, cache: { persistentVolumeClaim: { claimName: "models" } } });
const jobs = (kube: FakeKube): any[] => kube.all(resources.jobs);
const withoutGreen = { maxSurge: 0, maxUnavailable: 1 };
const spec = (kube: FakeKube, change: object) => kube.patch(resources.moeDeployments, ref, { spec: change }, user);
const stops: (() => unknown)[] = [];
after(async () => {
  for (const stop of stops.reverse()) await stop();
});

interface Options {
  readonly model?: object;
  readonly now?: () => Date;
}
/** A deployment of a hub's model, and what its downloads say. */
async function downloading({ model: wanted = model("hf://org/name@main"), now }: Options = {}) {
  const kube = await world();
  await spec(kube, { model: wanted });
  const life = kubelet(kube);
  const said: { words: Omit<DownloadProgress, "pod"> | undefined } = { words: undefined };
  const ask = async ({ uid }: { readonly uid: string }) => said.words && { pod: uid, ...said.words };
  const operator = await startOperator(kube, { ask, ...(now && { now }) });
  stops.push(() => operator.stop(), life.stop);
  return { kube, said };
}

/** Plays the Job controller and the kubelet: a pod of the Job, with this status. */
async function podOf(kube: FakeKube, job: any, podStatus: object, suffix = "a"): Promise<void> {
  const owner = { apiVersion: "batch/v1", kind: "Job", name: job.metadata.name, uid: job.metadata.uid };
  const name = `${job.metadata.name}-${suffix}`;
  const { labels } = job.spec.template.metadata;
  const metadata = { name, namespace: "ns", labels, ownerReferences: [owner] };
  await kube.create(
    resources.pods,
    { apiVersion: "v1", kind: "Pod", metadata, spec: { ...job.spec.template.spec, nodeName: "node-0" } },
    user,
  );
  kube.mutate(resources.pods, { namespace: "ns", name }, (pod) => Object.assign(pod, { status: podStatus }));
}
const running = { phase: "Running", podIP: "10.0.0.9", containerStatuses: [{ state: {} }] };
const ended = (message: object) => ({
  phase: "Failed",
  containerStatuses: [{ state: { terminated: { reason: "Error", exitCode: 3, message: JSON.stringify(message) } } }],
});
function finish(kube: FakeKube, job: any, type: "Complete" | "Failed", at = new Date()): void {
  const conditions = [{ type, status: "True", reason: "Because", message: "of the test", lastTransitionTime: at.toISOString() }];
  kube.mutate(resources.jobs, { namespace: "ns", name: job.metadata.name }, (one) => Object.assign(one, { status: { conditions } }));
}
const modelIs = (kube: FakeKube, want: "True" | "False" | "Unknown", reason: string) => async () => {
  const condition = conditionOf(await status(kube), "ModelAvailable");
  return condition?.status === want && condition.reason === reason;
};
/** Of a pod of a rank, or a template of gateways. */
const folderOf = (object: any): string =>
  object.spec.containers[0].env.find(({ name }: { name: string }) => name === "ENODIA_MODEL_PATH")?.value ??
  object.metadata.annotations["enodia.dev/model-place"].replace(/^[^/]*/, "");

test("no rank and no gateway is made before the model is there; how far it is stands in the status", async () => {
  const { kube, said } = await downloading();
  await until("the Job is made", () => jobs(kube).length === 1);
  const [job] = jobs(kube);
  assert.match(job.metadata.name, /^moe-model-[0-9a-f]{8}$/);
  assert.ok(kube.all(resources.secrets).some(({ metadata }) => metadata.name === "moe-downloader-tls"));
  said.words = { phase: "Downloading", doneBytes: 41, totalBytes: 100, bytesPerSecond: 10, revision: commit, message: "" };
  await podOf(kube, job, running);
  await until("its progress is told", async () => (await status(kube)).download?.progress === "41%");
  const told = await status(kube);
  assert.deepEqual(told.download, {
    ...{ uri: "hf://org/name@main", revision: commit, phase: "Downloading", progress: "41%" },
    ...{ doneBytes: 41, totalBytes: 100, bytesPerSecond: 10 },
  });
  const condition = (type: string) => conditionOf(told, type);
  assert.deepEqual([condition("ModelAvailable").status, condition("ModelAvailable").reason], ["False", "Downloading"]);
  assert.deepEqual([condition("SpecAccepted").status, condition("SpecAccepted").reason], ["Unknown", "ModelPending"]);
  assert.deepEqual([condition("Ready").status, condition("Ready").reason], ["False", "Downloading"]);
  assert.deepEqual([condition("Progressing").status, condition("Progressing").reason], ["True", "Downloading"]);
  assert.equal(condition("Degraded").status, "False");
  assert.equal(told.expertParallel.operation, undefined, "no deadline runs");
  assert.deepEqual([pods(kube).length, kube.all(resources.deployments).length], [0, 0]);
  finish(kube, job, "Complete");
  await until("3 ranks serve", readyWith(kube, 3));
  assert.equal((await status(kube)).download.progress, "Done");
  const [worker] = pods(kube);
  const claim = worker.spec.volumes.find(({ name }: { name: string }) => name === "models").persistentVolumeClaim;
  assert.deepEqual(claim, { claimName: "models", readOnly: true });
  const made = job.spec.template.spec;
  assert.equal(folderOf(worker), folderOf({ spec: made }), "ranks open what the Job delivers");
  assert.match(folderOf(worker), /^\/models\/org-name-main-[0-9a-f]{16}$/);
});

test("a download that failed says what its pod said, and is made anew after a while", async () => {
  let ahead = 0;
  const { kube } = await downloading({ now: () => new Date(Date.now() + ahead) });
  await until("the Job is made", () => jobs(kube).length === 1);
  const [job] = jobs(kube);
  await podOf(kube, job, ended({ reason: "SourceRefused", message: "answered 401: give HF_TOKEN" }));
  finish(kube, job, "Failed");
  await until("the reason is told", modelIs(kube, "False", "SourceRefused"));
  const told = await status(kube);
  assert.match(conditionOf(told, "ModelAvailable").message, /answered 401: give HF_TOKEN; it is tried again 120 s after that/);
  assert.equal(conditionOf(told, "Ready").reason, "SourceRefused");
  assert.deepEqual([jobs(kube).length, pods(kube).length], [1, 0]);
  ahead = 121_000;
  await spec(kube, { elasticity: { settle: "2ms" } }); // wakes the next look, as time alone would
  await until("another Job is made", () => jobs(kube).some(({ metadata }) => metadata.uid !== job.metadata.uid));
  assert.equal(jobs(kube)[0].metadata.name, job.metadata.name);
});

test("while another model is downloaded the old one serves untouched; then all its pods go before one of the new one comes", async () => {
  const { kube } = await downloading();
  await spec(kube, { rolloutStrategy: withoutGreen });
  await until("the Job is made", () => jobs(kube).length === 1);
  const [first] = jobs(kube);
  finish(kube, first, "Complete");
  await until("3 ranks serve", readyWith(kube, 3));
  const before = pods(kube).map(({ metadata }) => metadata.uid);
  const old = folderOf(pods(kube)[0]);
  await spec(kube, { model: model("hf://org/name@v2") });
  await until(
    "the other Job is made, and the first is gone",
    () => jobs(kube).length === 1 && jobs(kube)[0].metadata.name !== first.metadata.name,
  );
  await until("the spec waits", async () => conditionOf(await status(kube), "SpecAccepted")?.reason === "ModelPending");
  const waiting = await status(kube);
  assert.deepEqual(
    ["Ready", "Available"].map((type) => conditionOf(waiting, type).status),
    ["True", "True"],
  );
  assert.deepEqual(
    pods(kube).map(({ metadata }) => metadata.uid),
    before,
  );
  const gateway = () => kube.all(resources.deployments)[0] as any;
  assert.equal(folderOf(gateway().spec.template), old, "gateways keep the tokenizer of the model that serves");
  // From here on every state is looked at.
  const mixed: string[] = [];
  const gatewaysAt: number[] = [];
  const watch = setInterval(() => {
    const models = new Set(pods(kube).map(folderOf));
    if (models.size > 1) mixed.push([...models].join(" and "));
    const here = [...models].includes(old) ? 0 : 1;
    if (folderOf(gateway().spec.template) !== old && here === 0) gatewaysAt.push(gateway().spec.replicas ?? 1);
  }, 1);
  finish(kube, jobs(kube)[0], "Complete");
  await until("the new model serves", async () => (await readyWith(kube, 3)()) && !pods(kube).map(folderOf).includes(old));
  clearInterval(watch);
  assert.deepEqual(mixed, []);
  assert.deepEqual(
    gatewaysAt.filter((replicas) => replicas > 0),
    [],
    "no gateway of the new model while ranks of the old one are there",
  );
  assert.equal(conditionOf(await status(kube), "SpecAccepted").status, "True");
  await until("gateways are back", () => gateway().spec.replicas !== 0 && folderOf(gateway().spec.template) !== old);
});

test("another Secret is another download, and no reason to replace a pod", async () => {
  const { kube } = await downloading();
  await until("the Job is made", () => jobs(kube).length === 1);
  const [first] = jobs(kube);
  finish(kube, first, "Complete");
  await until("3 ranks serve", readyWith(kube, 3));
  const before = pods(kube).map(({ metadata }) => metadata.uid);
  await spec(kube, { model: { ...model("hf://org/name@main"), secretRef: { name: "token" } } });
  await until("another Job is made", () => jobs(kube).some(({ metadata }) => metadata.name !== first.metadata.name));
  const [second] = jobs(kube).filter(({ metadata }) => metadata.name !== first.metadata.name);
  assert.ok(second.spec.template.spec.volumes.some(({ secret }: any) => secret?.secretName === "token"));
  finish(kube, second, "Complete");
  await until("the spec is accepted", async () => conditionOf(await status(kube), "SpecAccepted")?.status === "True");
  await until("ranks serve", readyWith(kube, 3));
  assert.deepEqual(
    pods(kube).map(({ metadata }) => metadata.uid),
    before,
  );
});

test("the pod of a download that was asked for otherwise has ended before another one writes in its folder", async () => {
  const { kube } = await downloading();
  await until("the Job is made", () => jobs(kube).length === 1);
  const [first] = jobs(kube);
  await podOf(kube, first, running);
  kube.collectsAtOnce = false;
  await spec(kube, { model: { ...model("hf://org/name@main"), secretRef: { name: "token" } } });
  await until("the first Job is gone", () => jobs(kube).every(({ metadata }) => metadata.name !== first.metadata.name));
  await until("the pod is named", async () => /still write/.test(conditionOf(await status(kube), "ModelAvailable")?.message ?? ""));
  assert.deepEqual(jobs(kube), []);
  kube.mutate(resources.pods, { namespace: "ns", name: `${first.metadata.name}-a` }, (pod) =>
    Object.assign(pod, { status: ended({ reason: "Stopped", message: "the download was stopped" }) }),
  );
  await until("the other Job is made", () => jobs(kube).length === 1);
});

test("a third model that is asked for while the second takes the first one's place ends no differently", async () => {
  const { kube } = await downloading();
  await spec(kube, { rolloutStrategy: withoutGreen });
  const jobOf = async (uri: string): Promise<any> => {
    const found = () => jobs(kube).find(({ metadata }) => metadata.annotations["enodia.dev/model"] === uri);
    await until(`the Job of ${uri}`, () => found() !== undefined);
    return found();
  };
  finish(kube, await jobOf("hf://org/name@main"), "Complete");
  await until("3 ranks serve", readyWith(kube, 3));
  await spec(kube, { model: model("hf://org/name@v2") });
  const second = await jobOf("hf://org/name@v2");
  const mixed: string[] = [];
  const watch = setInterval(() => {
    const models = new Set(pods(kube).map(folderOf));
    if (models.size > 1) mixed.push([...models].join(" and "));
  }, 1);
  finish(kube, second, "Complete");
  await until(
    "the first one's ranks are on their way out",
    async () => conditionOf(await status(kube), "Available")?.reason === "SwitchingModel",
  );
  await spec(kube, { model: model("hf://org/name@v3") });
  finish(kube, await jobOf("hf://org/name@v3"), "Complete");
  const third = async () => (await readyWith(kube, 3)()) && pods(kube).every((pod) => folderOf(pod).includes("v3"));
  await until("the third serves", third);
  clearInterval(watch);
  assert.deepEqual(mixed, []);
});
