// Ranks that mount no model as the deployment plane makes them, on the in-memory API: which claims take a seed, that no rank comes before
// it, what is told while it is away, and that ranks which mount a claim keep doing so.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
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
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

const stops: (() => unknown)[] = [];
after(async () => {
  for (const stop of stops.reverse()) await stop();
});

const spec = (kube: FakeKube, change: object) => kube.patch(resources.moeDeployments, ref, { spec: change }, user);
const modes = (kube: FakeKube, accessModes: readonly string[]) =>
  kube.mutate(resources.persistentVolumeClaims, { namespace: "ns", name: "models" }, (one) =>
    Object.assign(one, { spec: { accessModes } }),
  );
const seedOf = (kube: FakeKube): any => kube.all(resources.deployments).find(({ metadata }) => metadata.name === "moe-weight-server");
const modelVolume = (pod: any): any => pod.spec.volumes.find(({ name }: { name: string }) => name === "models");
const reasonOf = async (kube: FakeKube, type: string) => conditionOf(await status(kube), type)?.reason;

async function started(kube: FakeKube, fate?: (pod: any) => object | undefined) {
  const said: { words: Omit<DownloadProgress, "pod"> | undefined } = { words: undefined };
  const ask = async ({ uid }: { readonly uid: string }) => said.words && { pod: uid, ...said.words };
  const life = kubelet(kube, fate);
  const operator = await startOperator(kube, { ask });
  stops.push(() => operator.stop(), life.stop);
  return { said, operator };
}

/** Plays the Deployment controller and the kubelet of the seed. */
async function seedPod(kube: FakeKube, ready: boolean, name = "moe-weight-server-a"): Promise<void> {
  const { metadata, spec: of } = seedOf(kube).spec.template;
  const object = { apiVersion: "v1", kind: "Pod", metadata: { ...metadata, name, namespace: "ns" }, spec: { ...of, nodeName: "node-0" } };
  await kube.create(resources.pods, object, user);
  const conditions = [{ type: "Ready", status: ready ? "True" : "False" }];
  kube.mutate(resources.pods, { namespace: "ns", name }, (pod) =>
    Object.assign(pod, { status: { phase: "Running", podIP: "10.0.0.9", conditions, containerStatuses: [{ state: {} }] } }),
  );
}

test("a claim for one node takes a seed, which comes first; ranks mount nothing of it, and wait for it while it is away", async () => {
  const kube = await world();
  modes(kube, ["ReadWriteOnce"]);
  await started(kube);
  await until("the seed is made", () => seedOf(kube) !== undefined);
  await until("it is waited for", async () => (await reasonOf(kube, "ModelAvailable")) === "WeightServerNotReady");
  assert.equal(await reasonOf(kube, "SpecAccepted"), "ModelPending");
  assert.equal(pods(kube).length, 0);
  const { template, replicas } = seedOf(kube).spec;
  assert.equal(replicas, 1);
  assert.deepEqual(modelVolume(template).persistentVolumeClaim, { claimName: "models", readOnly: true });
  await until("its certificate", () => kube.all(resources.secrets).some(({ metadata }) => metadata.name === "moe-weight-server-tls"));
  await seedPod(kube, true);
  await until("3 ranks serve", readyWith(kube, 3));
  const [rank] = pods(kube);
  assert.deepEqual(modelVolume(rank), { name: "models", emptyDir: {} });
  const env = rank.spec.containers[0].env.find(({ name }: { name: string }) => name === "ENODIA_WEIGHT_SERVER_DNS");
  assert.equal(env.value, "moe-weight-server.ns.svc");
  const uids = pods(kube).map(({ metadata }) => metadata.uid);
  kube.remove(resources.pods, { namespace: "ns", name: "moe-weight-server-a" });
  await spec(kube, { elasticity: { settle: "2ms" } });
  await until("the spec is in effect", async () => (await status(kube)).observedGeneration >= 2);
  assert.equal(await reasonOf(kube, "Ready"), "AllReplicasAvailable", "ranks that serve go on");
  assert.deepEqual(
    pods(kube).map(({ metadata }) => metadata.uid),
    uids,
  ); // prettier-ignore
});

test("a rank that starts while the seed is away is waited for with the reason", async () => {
  const kube = await world();
  modes(kube, ["ReadWriteOnce"]);
  const waiting = { phase: "Running", podIP: "10.0.0.1", conditions: [{ type: "Ready", status: "False" }] };
  await started(kube, (pod) => (pod.metadata.labels["enodia.dev/rank"] === "3" ? waiting : undefined));
  await until("the seed is made", () => seedOf(kube) !== undefined);
  await seedPod(kube, true);
  await until("3 ranks serve", readyWith(kube, 3));
  kube.remove(resources.pods, { namespace: "ns", name: "moe-weight-server-a" });
  await spec(kube, { replicas: 4 });
  await until("the reason", async () => (await reasonOf(kube, "ModelAvailable")) === "WeightServerNotReady");
  const told = await status(kube);
  assert.match(conditionOf(told, "Ready").message, /3 of 4 ranks serve: the weight server has no pod yet; .* those that start wait for it/);
  assert.equal(conditionOf(told, "Available").status, "True");
});

test("a claim for many nodes is mounted, and ranks that mount one keep to it, whatever its modes are said to be later", async () => {
  const kube = await world();
  modes(kube, ["ReadOnlyMany"]);
  const first = await started(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  assert.equal(seedOf(kube), undefined);
  const uids = pods(kube).map(({ metadata }) => metadata.uid);
  await first.operator.stop();
  modes(kube, ["ReadWriteOnce"]);
  await startOperator(kube).then((operator) => stops.push(() => operator.stop()));
  await spec(kube, { elasticity: { settle: "2ms" } });
  await until("the spec is in effect", async () => (await status(kube)).observedGeneration >= 2);
  assert.deepEqual(
    pods(kube).map(({ metadata }) => metadata.uid),
    uids,
  ); // prettier-ignore
  assert.equal(seedOf(kube), undefined);
  // Another template takes the claim as it is.
  await spec(kube, { model: { servedName: "other" } });
  await until("a seed for it", () => seedOf(kube) !== undefined);
});

test("a claim that cannot be looked at takes no seed away", async () => {
  const kube = await world();
  modes(kube, ["ReadWriteOnce"]);
  await started(kube);
  await until("the seed is made", () => seedOf(kube) !== undefined);
  await seedPod(kube, true);
  await until("3 ranks serve", readyWith(kube, 3));
  const { uid } = seedOf(kube).metadata;
  const get = kube.get.bind(kube);
  let looks = 0;
  kube.get = async (resource, at) => {
    if (resource !== resources.persistentVolumeClaims) return get(resource, at);
    looks += 1;
    throw new AppError("the API server is away", { code: "Unavailable", retry: "backoff" });
  };
  await spec(kube, { model: { servedName: "other" } });
  await until("it was looked at", () => looks > 1);
  assert.equal(seedOf(kube)?.metadata.uid, uid);
  kube.get = get;
  await until("the spec is in effect", async () => (await reasonOf(kube, "SpecAccepted")) === "Accepted");
  assert.equal(seedOf(kube)?.metadata.uid, uid);
});

test("without a claim the seed downloads, and its words are the status", async () => {
  const kube = await world();
  await spec(kube, { model: { uri: "hf://org/name", cache: { ephemeral: { sizeLimit: "5Gi" } } } });
  const { said } = await started(kube);
  await until("the seed is made", () => seedOf(kube) !== undefined);
  assert.equal(kube.all(resources.jobs).length, 0);
  assert.deepEqual(modelVolume(seedOf(kube).spec.template).emptyDir, { sizeLimit: "5Gi" });
  said.words = { phase: "Downloading", doneBytes: 41, totalBytes: 100, bytesPerSecond: 10, message: "" };
  await seedPod(kube, false);
  await until("its progress is told", async () => (await status(kube)).download?.progress === "41%");
  assert.equal(await reasonOf(kube, "ModelAvailable"), "Downloading");
  said.words = { phase: "Listing", doneBytes: 0, totalBytes: 0, bytesPerSecond: 0, reason: "CacheTooSmall", message: "raise it" };
  await spec(kube, { elasticity: { settle: "2ms" } });
  await until("the failure is told", async () => (await reasonOf(kube, "ModelAvailable")) === "CacheTooSmall");
  assert.equal(pods(kube).length, 0);
  kube.mutate(resources.pods, { namespace: "ns", name: "moe-weight-server-a" }, (pod: any) => {
    pod.status.conditions[0].status = "True";
  });
  await until("3 ranks serve", readyWith(kube, 3));
  // Back to a claim: nothing of the seed stays.
  await spec(kube, { model: { uri: "pvc://models/moe", cache: null }, suspend: true });
  await until("the seed is gone", () => seedOf(kube) === undefined);
  assert.equal(
    kube.all(resources.services).some(({ metadata }) => metadata.name === "moe-weight-server"),
    false,
  ); // prettier-ignore
});

test("the seed keeps the ranks' model while another is paused, refused or tried, and has it once that is in effect", async () => {
  const kube = await world();
  modes(kube, ["ReadWriteOnce"]);
  await started(kube, (pod) => (pod.metadata.labels["enodia.dev/deployment"] === "moe" ? undefined : { phase: "Pending" }));
  await until("the seed is made", () => seedOf(kube) !== undefined);
  await seedPod(kube, true);
  await until("it is whole", async () => (await status(kube)).rollout?.phase === "Complete");
  const model = () => seedOf(kube).spec.template.metadata.annotations["enodia.dev/model"];
  const [own, other] = [model(), "pvc://models/other"];
  const had = new Set<string>();
  kube.onWrite = () => had.add(model());
  const bad = { spec: { containers: [{ name: "runtime", command: ["sh"] }] } };
  const generation = async () => (await kube.get(resources.moeDeployments, ref))?.metadata.generation;
  await spec(kube, { model: { uri: other }, rolloutStrategy: { paused: true } });
  await until("it is held", async () => (await status(kube)).rollout?.phase === "Paused");
  await spec(kube, { rolloutStrategy: { paused: false, maxSurge: 0, maxUnavailable: 1 }, podTemplate: bad });
  await until("it is refused", async () => (await reasonOf(kube, "SpecAccepted")) === "FieldNotSupported");
  await spec(kube, { podTemplate: null, rolloutStrategy: { maxSurge: 1, maxUnavailable: 0 } });
  await until("a green deployment tries it", async () => (await status(kube)).rollout?.green?.phase === "Starting");
  assert.deepEqual([[...had], (await status(kube)).observedGeneration], [[own], await generation()]);
  await spec(kube, { rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
  await until("the seed has it", async () => model() === other);
});
