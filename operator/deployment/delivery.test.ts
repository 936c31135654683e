// Downloads of models as the deployment plane runs them, on the in-memory API: no rank before the model, progress in the status, failures
// with their reason, and a change of model under traffic, in which two models never run side by side.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { DownloadProgress } from "../../crds/download.ts";
import { type MoeWorld, modelFolder, world } from "../../test/kit/deployment/moe-world.ts";
import { commit } from "../../test/kit/models/model-hub.ts";
import { until } from "../../test/kit/wait.ts";

const model = (uri: string, more: object = {}) => ({ uri, cache: { persistentVolumeClaim: { claimName: "models" } }, ...more });
const withoutGreen = { maxSurge: 0, maxUnavailable: 1 };
const withToken = { model: model("hf://org/name@main", { secretRef: { name: "token" } }) };
const running = { phase: "Running", podIP: "10.0.0.9", containerStatuses: [{ state: {} }] };
const ended = (message: object) => ({
  phase: "Failed",
  containerStatuses: [{ state: { terminated: { reason: "Error", exitCode: 3, message: JSON.stringify(message) } } }],
});

/** A deployment of a hub's model, its Job, and what its downloads say. */
async function downloading(t: TestContext, spec: object = {}, aheadMs?: number) {
  const moe = await world(t, { model: model("hf://org/name@main"), ...spec });
  const said: { words: Omit<DownloadProgress, "pod"> | undefined } = { words: undefined };
  moe.aheadMs = aheadMs;
  await moe.start({ ask: async ({ uid }) => said.words && { pod: uid, ...said.words } });
  return { moe, said, job: await jobOf(moe, "hf://org/name@main") };
}
async function jobOf(moe: MoeWorld, uri: string, not?: { metadata: { name: string } }): Promise<any> {
  const found = () =>
    moe.all("jobs").find(({ metadata }) => metadata.annotations["enodia.dev/model"] === uri && metadata.name !== not?.metadata.name);
  await until(`the Job of ${uri}`, () => found() !== undefined);
  return found();
}
/** Plays the Job controller and the kubelet: a pod of the Job, with this status. */
async function podOf(moe: MoeWorld, job: any, status: object): Promise<string> {
  const owner = { apiVersion: "batch/v1", kind: "Job", name: job.metadata.name, uid: job.metadata.uid };
  const name = `${job.metadata.name}-a`;
  const { metadata, spec } = job.spec.template;
  await moe.make("pods", name, { metadata: { labels: metadata.labels, ownerReferences: [owner] }, spec: { ...spec, nodeName: "node-0" } });
  moe.mutate("pods", name, (pod) => Object.assign(pod, { status }));
  return name;
}
function finish(moe: MoeWorld, job: any, type: "Complete" | "Failed"): void {
  const conditions = [{ type, status: "True", reason: "Because", message: "of the test", lastTransitionTime: new Date().toISOString() }];
  moe.mutate("jobs", job.metadata.name, (one) => Object.assign(one, { status: { conditions } }));
}
/** The ranks of the first model serve. */
async function delivered(t: TestContext, spec: object = {}) {
  const { moe, job } = await downloading(t, spec);
  finish(moe, job, "Complete");
  await moe.serves(3);
  return { moe, job };
}
/** Looks every millisecond, while something comes to pass, that the ranks have one model. */
async function unmixed(moe: MoeWorld, passes: () => Promise<void>, look: (models: Set<string>) => void = () => {}): Promise<void> {
  const mixed: string[] = [];
  const watch = setInterval(() => {
    const models = new Set(moe.pods.map(modelFolder));
    if (models.size > 1) mixed.push([...models].join(" and "));
    look(models);
  }, 1);
  await passes().finally(() => clearInterval(watch));
  assert.deepEqual(mixed, []);
}

test("no rank and no gateway is made before the model is there; how far it is stands in the status", async (t) => {
  const { moe, said, job } = await downloading(t);
  assert.equal(moe.all("jobs").length, 1);
  assert.match(job.metadata.name, /^moe-model-[0-9a-f]{8}$/);
  moe.remove("secrets", "moe-downloader-tls");
  await until("the certificate of a running Job is made anew", async () => (await moe.get("secrets", "moe-downloader-tls")) !== undefined);
  said.words = { phase: "Downloading", doneBytes: 41, totalBytes: 100, bytesPerSecond: 10, revision: commit, message: "" };
  await podOf(moe, job, running);
  await until("its progress is told", async () => (await moe.status()).download?.progress === "41%");
  const told = await moe.status();
  assert.deepEqual(told.download, {
    ...{ uri: "hf://org/name@main", revision: commit, phase: "Downloading", progress: "41%" },
    ...{ doneBytes: 41, totalBytes: 100, bytesPerSecond: 10 },
  });
  await moe.check("ModelAvailable", "False", "Downloading");
  await moe.check("SpecAccepted", "Unknown", "ModelPending");
  await moe.check("Ready", "False", "Downloading");
  await moe.check("Progressing", "True", "Downloading");
  await moe.check("Degraded", "False");
  assert.equal(told.expertParallel.operation, undefined, "no deadline runs");
  assert.deepEqual([moe.pods, moe.all("deployments")], [[], []]);
  finish(moe, job, "Complete");
  await moe.serves(3);
  assert.equal((await moe.status()).download.progress, "Done");
  const [worker] = moe.pods;
  const claim = worker.spec.volumes.find(({ name }: { name: string }) => name === "models").persistentVolumeClaim;
  assert.deepEqual(claim, { claimName: "models", readOnly: true });
  assert.equal(modelFolder(worker), modelFolder(job.spec.template), "ranks open what the Job delivers");
  assert.match(modelFolder(worker), /^\/models\/org-name-main-[0-9a-f]{16}$/);
});

test("a download whose pod no quota admits says so in the words of the API server, and not that there is no pod", async (t) => {
  const { moe, job } = await downloading(t, {}, 0);
  moe.refuse((kind, { metadata: { name } }) => kind === "Pod" && `pods "${name}" is forbidden: exceeded quota: q, used: pods=2`);
  moe.aheadMs = 6_000;
  moe.wake();
  await moe.comes("ModelAvailable", "JobRefused", new RegExp(`Job ${job.metadata.name} has no pod yet: pods .* exceeded quota: q`));
  moe.kube.admit = () => {};
  moe.aheadMs = 20_000;
  moe.wake();
  await moe.comes("ModelAvailable", "Downloading", /has no pod yet$/);
});

test("a download that failed says what its pod said, and is made anew after a while", async (t) => {
  const { moe, job } = await downloading(t, {}, 0);
  await podOf(moe, job, ended({ reason: "SourceRefused", message: "answered 401: give HF_TOKEN" }));
  finish(moe, job, "Failed");
  await moe.comes("ModelAvailable", "False", "SourceRefused", /answered 401: give HF_TOKEN; it is tried again 120 s after that/);
  await moe.check("Ready", "SourceRefused");
  assert.deepEqual([moe.all("jobs").length, moe.pods.length], [1, 0]);
  moe.aheadMs = 121_000;
  await moe.change({ elasticity: { settle: "2ms" } }); // wakes the next look, as time alone would
  await until("another Job is made", () => moe.all("jobs").some(({ metadata }) => metadata.uid !== job.metadata.uid));
  assert.equal(moe.all("jobs")[0].metadata.name, job.metadata.name);
});

test("while another model is downloaded the old one serves untouched; then all its pods go before one of the new one comes", async (t) => {
  const { moe } = await delivered(t, { rolloutStrategy: withoutGreen });
  const [before, old] = [moe.uids, modelFolder(moe.pods[0])];
  await moe.change({ model: model("hf://org/name@v2") });
  const job = await jobOf(moe, "hf://org/name@v2");
  await until("the first is gone", () => moe.all("jobs").length === 1);
  await moe.comes("SpecAccepted", "ModelPending");
  await moe.check("Ready", "True");
  await moe.check("Available", "True");
  assert.deepEqual(moe.uids, before);
  const gateway = () => moe.all("deployments")[0].spec;
  assert.equal(modelFolder(gateway().template), old, "gateways keep the tokenizer of the model that serves");
  let early = 0;
  const newFront = () => modelFolder(gateway().template) !== old && gateway().replicas !== 0;
  const serves = () => until("the new model serves", async () => (await moe.ready(3)) && !moe.pods.map(modelFolder).includes(old));
  const look = (models: Set<string>) => {
    if (models.has(old) && newFront()) early += 1;
  };
  finish(moe, job, "Complete");
  await unmixed(moe, serves, look);
  assert.equal(early, 0, "no gateway of the new model while ranks of the old one are there");
  await moe.check("SpecAccepted", "True");
  await until("gateways are back", newFront);
});

test("another Secret is another download, and no reason to replace a pod", async (t) => {
  const { moe, job: first } = await delivered(t);
  const before = moe.uids;
  await moe.change(withToken);
  const second = await jobOf(moe, "hf://org/name@main", first);
  assert.ok(second.spec.template.spec.volumes.some(({ secret }: any) => secret?.secretName === "token"));
  finish(moe, second, "Complete");
  await moe.comes("SpecAccepted", "True");
  await moe.serves(3);
  assert.deepEqual(moe.uids, before);
});

test("the pod of a download that was asked for otherwise has ended before another one writes in its folder", async (t) => {
  const { moe, job } = await downloading(t);
  const pod = await podOf(moe, job, running);
  moe.kube.collectsAtOnce = false;
  await moe.change(withToken);
  await until("the first Job is gone", () => moe.all("jobs").every(({ metadata }) => metadata.name !== job.metadata.name));
  await moe.comes("ModelAvailable", /still write/);
  assert.deepEqual(moe.all("jobs"), []);
  moe.mutate("pods", pod, (one) => Object.assign(one, { status: ended({ reason: "Stopped", message: "the download was stopped" }) }));
  await until("the other Job is made", () => moe.all("jobs").length === 1);
});

test("a third model that is asked for while the second takes the first one's place ends no differently", async (t) => {
  const { moe } = await delivered(t, { rolloutStrategy: withoutGreen });
  await moe.change({ model: model("hf://org/name@v2") });
  const second = await jobOf(moe, "hf://org/name@v2");
  await unmixed(moe, async () => {
    finish(moe, second, "Complete");
    await moe.comes("Available", "SwitchingModel"); // the first one's ranks are on their way out
    await moe.change({ model: model("hf://org/name@v3") });
    finish(moe, await jobOf(moe, "hf://org/name@v3"), "Complete");
    await until("the third serves", async () => (await moe.ready(3)) && moe.pods.every((pod) => modelFolder(pod).includes("v3")));
  });
});
