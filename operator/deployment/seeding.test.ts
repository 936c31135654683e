// Ranks that mount no model as the deployment plane makes them, on the in-memory API: which claims take a seed, that no rank comes before
// it, what is told while it is away, and that ranks which mount a claim keep doing so.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import type { DownloadProgress } from "../../crds/download.ts";
import { type MoeWorld, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

type Fate = Parameters<typeof world>[2];
const name = "moe-weight-server";
const seedPod = `${name}-a`;
const modes = (moe: MoeWorld, ...accessModes: string[]) =>
  moe.mutate("persistentVolumeClaims", "models", (one) => Object.assign(one, { spec: { accessModes } }));
const seedOf = (moe: MoeWorld): any => moe.all("deployments").find(({ metadata }) => metadata.name === name);
const modelVolume = (spec: any): any => spec.volumes.find((one: { name: string }) => one.name === "models");
const awaitsSeed = (moe: MoeWorld) => until("the seed is made", () => seedOf(moe) !== undefined);
/** Wakes the operator by a change that asks for nothing, and waits until it has looked. */
async function looksAgain(moe: MoeWorld): Promise<void> {
  const { metadata } = await moe.change({ elasticity: { settle: "2ms" } });
  await until("the spec is in effect", async () => (await moe.status()).observedGeneration >= (metadata.generation ?? 0));
}

/** Plays the Deployment controller and the kubelet of the seed. */
async function startSeed(moe: MoeWorld, ready: boolean, nodeName = "node-0", pod = seedPod): Promise<void> {
  const { metadata, spec } = seedOf(moe).spec.template;
  await moe.make("pods", pod, { metadata, spec: { ...spec, nodeName } });
  const conditions = [{ type: "Ready", status: ready ? "True" : "False" }];
  const status = { phase: "Running", podIP: "10.0.0.9", conditions, containerStatuses: [{ state: {} }] };
  moe.mutate("pods", pod, (one) => Object.assign(one, { status }));
}
/** A claim for one node, whose seed is asked for. */
async function seeded(t: TestContext, fate?: Fate): Promise<MoeWorld> {
  const moe = await world(t, {}, fate);
  modes(moe, "ReadWriteOnce");
  await moe.start();
  await awaitsSeed(moe);
  return moe;
}
async function seedServes(t: TestContext, fate?: Fate): Promise<MoeWorld> {
  const moe = await seeded(t, fate);
  await startSeed(moe, true);
  await moe.serves(3);
  return moe;
}

test("a claim for one node takes a seed, which comes first; ranks mount nothing of it, and wait for it while it is away", async (t) => {
  const moe = await seeded(t);
  await moe.comes("ModelAvailable", "WeightServerNotReady");
  await moe.check("SpecAccepted", "ModelPending");
  assert.equal(moe.pods.length, 0);
  const { template, replicas } = seedOf(moe).spec;
  assert.equal(replicas, 1);
  assert.deepEqual(modelVolume(template.spec).persistentVolumeClaim, { claimName: "models", readOnly: true });
  await until("its certificate", async () => (await moe.get("secrets", `${name}-tls`)) !== undefined);
  await startSeed(moe, true);
  await moe.serves(3);
  const [{ spec }] = moe.pods;
  assert.deepEqual(modelVolume(spec), { name: "models", emptyDir: {} });
  const env = spec.containers[0].env.find((one: { name: string }) => one.name === "ENODIA_WEIGHT_SERVER_DNS");
  assert.equal(env.value, `${name}.ns.svc`);
  const { uids } = moe;
  moe.remove("pods", seedPod);
  await looksAgain(moe);
  await moe.check("Ready", "AllReplicasAvailable"); // ranks that serve go on
  assert.deepEqual(moe.uids, uids);
});

test("the seed is told which pods are members, and again when one has been replaced", async (t) => {
  const moe = await world(t);
  modes(moe, "ReadWriteOnce");
  let told: string[] = [];
  const report: Omit<DownloadProgress, "pod"> = { phase: "Done", doneBytes: 0, totalBytes: 0, bytesPerSecond: 0, message: "" };
  await moe.start({
    ask: async ({ uid, body = "{}" }) => {
      told = JSON.parse(body).members;
      return { pod: uid, ...report };
    },
  });
  await awaitsSeed(moe);
  await startSeed(moe, true);
  await moe.serves(3);
  const knows = () => until("it knows the members", () => told.join() === moe.uids.toSorted().join());
  await knows();
  const [{ metadata }] = moe.pods;
  moe.remove("pods", metadata.name);
  await moe.serves(3);
  await knows();
  assert.ok(!told.includes(metadata.uid));
});

test("a rank that starts while the seed is away is waited for with the reason", async (t) => {
  const waiting = { phase: "Running", podIP: "10.0.0.1", conditions: [{ type: "Ready", status: "False" }] };
  const moe = await seedServes(t, (pod) => (pod.metadata.labels["enodia.dev/rank"] === "3" ? waiting : undefined));
  moe.remove("pods", seedPod);
  await moe.change({ replicas: 4 });
  await moe.comes("ModelAvailable", "WeightServerNotReady");
  await moe.check("Ready", /3 of 4 ranks serve: the weight server has no pod yet; .* those that start wait for it/);
  await moe.check("Available", "True");
});

test("a claim for many nodes is mounted, and ranks that mount one keep to it, whatever its modes are said to be later", async (t) => {
  const moe = await world(t);
  modes(moe, "ReadOnlyMany");
  await moe.start();
  await moe.serves(3);
  assert.equal(seedOf(moe), undefined);
  const { uids } = moe;
  await moe.stop();
  modes(moe, "ReadWriteOnce");
  await moe.start();
  await looksAgain(moe);
  assert.deepEqual([moe.uids, seedOf(moe)], [uids, undefined]);
  // Another template takes the claim as it is.
  await moe.change({ model: { servedName: "other" } });
  await awaitsSeed(moe);
});

test("a claim that cannot be looked at takes no seed away", async (t) => {
  const moe = await seedServes(t);
  const { uid } = seedOf(moe).metadata;
  const { get } = moe.kube;
  let looks = 0;
  moe.kube.get = async (resource, at) => {
    if (resource !== resources.persistentVolumeClaims) return get(resource, at);
    looks += 1;
    throw new AppError("the API server is away", { code: "Unavailable", retry: "backoff" });
  };
  await moe.change({ model: { servedName: "other" } });
  await until("it was looked at", () => looks > 1);
  assert.equal(seedOf(moe)?.metadata.uid, uid);
  moe.kube.get = get;
  await moe.comes("SpecAccepted", "Accepted");
  assert.equal(seedOf(moe)?.metadata.uid, uid);
});

test("without a claim the seed downloads, and its words are the status", async (t) => {
  const moe = await world(t, { model: { uri: "hf://org/name", cache: { ephemeral: { sizeLimit: "5Gi" } } } });
  let words: Omit<DownloadProgress, "pod"> = { phase: "Downloading", doneBytes: 41, totalBytes: 100, bytesPerSecond: 10, message: "" };
  await moe.start({ ask: async ({ uid }) => ({ pod: uid, ...words }) });
  await awaitsSeed(moe);
  assert.deepEqual(moe.all("jobs"), []);
  assert.deepEqual(modelVolume(seedOf(moe).spec.template.spec).emptyDir, { sizeLimit: "5Gi" });
  await startSeed(moe, false);
  await until("its progress is told", async () => (await moe.status()).download?.progress === "41%");
  await moe.check("ModelAvailable", "Downloading");
  words = { phase: "Listing", doneBytes: 0, totalBytes: 0, bytesPerSecond: 0, reason: "CacheTooSmall", message: "raise it" };
  await looksAgain(moe);
  await moe.comes("ModelAvailable", "CacheTooSmall");
  assert.equal(moe.pods.length, 0);
  moe.mutate("pods", seedPod, ({ status }) => Object.assign(status.conditions[0], { status: "True" }));
  await moe.serves(3);
  // Back to a claim: nothing of the seed stays.
  await moe.change({ model: { uri: "pvc://models/moe", cache: null }, suspend: true });
  await until("the seed is gone", () => seedOf(moe) === undefined);
  assert.equal(await moe.get("services", name), undefined);
});

test("the seed keeps the ranks' model while another is paused, refused or tried, and has it once that is in effect", async (t) => {
  const moe = await seeded(t, (pod) => (pod.metadata.labels["enodia.dev/deployment"] === "moe" ? undefined : { phase: "Pending" }));
  await startSeed(moe, true);
  await moe.reaches("Complete");
  const model = () => seedOf(moe).spec.template.metadata.annotations["enodia.dev/model"];
  const [own, other] = [model(), "pvc://models/other"];
  const had = new Set<string>();
  moe.kube.onWrite = () => had.add(model());
  const bad = { spec: { containers: [{ name: "runtime", command: ["sh"] }] } };
  await moe.change({ model: { uri: other }, rolloutStrategy: { paused: true } });
  await moe.reaches("Paused");
  await moe.change({ rolloutStrategy: { paused: false, maxSurge: 0, maxUnavailable: 1 }, podTemplate: bad });
  await moe.comes("SpecAccepted", "FieldNotSupported");
  await moe.change({ podTemplate: null, rolloutStrategy: { maxSurge: 1, maxUnavailable: 0 } });
  await until("a green deployment tries it", async () => (await moe.status()).rollout?.green?.phase === "Starting");
  const { metadata, status } = await moe.get("moeDeployments");
  assert.deepEqual([[...had], status.observedGeneration], [[own], metadata.generation]);
  await moe.change({ rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
  await until("the seed has it", async () => model() === other);
});

/** A pod of another deployment that has the claim on a node. */
const otherHas = (moe: MoeWorld, node: string) =>
  moe.make("pods", "other-weight-server-a", {
    metadata: { labels: { "enodia.dev/deployment": "other", "enodia.dev/component": "weight-server" } },
    spec: { nodeName: node, containers: [], volumes: [{ name: "models", persistentVolumeClaim: { claimName: "models", readOnly: true } }] },
    status: { phase: "Running" },
  });
const heldTo = (spec: any) =>
  spec.affinity?.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].values;

test("the seed of a claim that another deployment has goes to its node, and so does that of a green deployment", async (t) => {
  const moe = await world(t, {}, (pod) => (pod.metadata.labels["enodia.dev/deployment"] === "moe" ? undefined : { phase: "Pending" }));
  modes(moe, "ReadWriteOnce");
  await otherHas(moe, "node-2");
  await moe.start();
  await awaitsSeed(moe);
  assert.deepEqual(heldTo(seedOf(moe).spec.template.spec), ["node-2"]);
  moe.remove("pods", "other-weight-server-a");
  await startSeed(moe, true);
  await moe.reaches("Complete");
  const { generation } = seedOf(moe).metadata;
  await moe.change({ model: { uri: "pvc://models/other" }, rolloutStrategy: { maxSurge: 1, maxUnavailable: 0 } });
  const greens = () => moe.all("deployments").filter(({ metadata }) => /^moe-[0-9a-f]{8}-weight-server$/.test(metadata.name));
  await until("the seed of the green deployment", () => greens().length === 1);
  assert.deepEqual(heldTo(greens()[0].spec.template.spec), ["node-0"], "where the ranks' own seed has the claim");
  assert.equal(seedOf(moe).metadata.generation, generation, "which is not restarted for that");
});

test("a seed that is held to a node which dies moves with its claim, others follow it, and none is held to a node that is gone", async (t) => {
  const moe = await world(t);
  modes(moe, "ReadWriteOnce");
  moe.aheadMs = 0;
  await otherHas(moe, "node-2");
  await moe.start();
  await awaitsSeed(moe);
  assert.deepEqual(heldTo(seedOf(moe).spec.template.spec), ["node-2"]);
  await startSeed(moe, true, "node-2");
  await moe.serves(3);
  const held = () => heldTo(seedOf(moe).spec.template.spec);
  moe.node("node-2", "Unknown");
  moe.wake();
  await until("it may go anywhere", () => held() === undefined);
  // The dead node's pods stay for as long as nobody confirms their end.
  await startSeed(moe, true, "node-3", `${name}-b`);
  await moe.create({ model: { uri: "pvc://models/second" } }, { namespace: "ns", name: "second" });
  const second = () => moe.all("deployments").find(({ metadata }) => metadata.name === "second-weight-server");
  await until("another's seed", () => second() !== undefined);
  assert.deepEqual([heldTo(second().spec.template.spec), held()], [["node-3"], undefined]);
  moe.kube.remove(resources.nodes, { namespace: "", name: "node-2" });
  moe.remove("pods", `${name}-b`);
  moe.aheadMs = 60_000;
  for (const key of ["ns/moe", "ns/second"]) moe.operator.plane.controller.queue.add(key);
  await until("the second is free too", () => heldTo(second().spec.template.spec) === undefined);
  assert.equal(held(), undefined);
});

test("a claim for one pod is refused to a second deployment, and to a green one, while ranks go on", async (t) => {
  const moe = await world(t);
  modes(moe, "ReadWriteOncePod");
  await otherHas(moe, "node-2");
  await moe.start();
  await moe.comes(
    "ModelAvailable",
    "ClaimInUse",
    /pod other-weight-server-a of deployment other has it: use a claim that is ReadWriteOnce/,
  );
  assert.equal(seedOf(moe).spec.replicas, 0);
  moe.remove("pods", "other-weight-server-a");
  moe.wake();
  await until("its own seed", () => seedOf(moe).spec.replicas === 1);
  await startSeed(moe, true);
  await moe.reaches("Complete");
  const { uids } = moe;
  await moe.change({ model: { uri: "pvc://models/other" }, rolloutStrategy: { maxSurge: 1, maxUnavailable: 0 } });
  await moe.comes("ModelAvailable", "ClaimInUse", /no green deployment can try the model: .*maxSurge to 0/);
  assert.deepEqual([moe.uids, seedOf(moe).spec.replicas, moe.all("moeDeployments").length], [uids, 1, 1]);
  await moe.change({ rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
  await until("all ranks change", () => seedOf(moe).spec.template.metadata.annotations["enodia.dev/model"] === "pvc://models/other");
});

const serversOf = (moe: MoeWorld): any[] => moe.all("pods").filter(({ metadata }) => /-weight-server-\d+$/.test(metadata.name));
/** Plays the Deployment controller of seeds, a scheduler that spreads them, and a disk that one node has at a time. */
function oneDisk(t: TestContext, moe: MoeWorld): void {
  let [attached, made]: [string | undefined, number] = [undefined, 0];
  const turn = async () => {
    const owners = new Set(moe.all("moeDeployments").map(({ metadata }) => metadata.uid));
    const isOwned = ({ metadata }: any) => owners.has(metadata.ownerReferences[0].uid);
    const wanted = moe
      .all("deployments")
      .filter((one) => /-weight-server$/.test(one.metadata.name) && one.spec.replicas === 1 && isOwned(one));
    const podName = (pod: any): string => pod.metadata.name.replace(/-\d+$/, "");
    for (const pod of serversOf(moe)) {
      const of = wanted.find(({ metadata }) => metadata.name === podName(pod));
      if (JSON.stringify(of?.spec.template) !== pod.metadata.annotations.template) moe.remove("pods", pod.metadata.name);
    }
    for (const { metadata: of, spec } of wanted) {
      if (serversOf(moe).some((pod) => podName(pod) === of.name)) continue;
      const { metadata, spec: pod } = spec.template;
      const nodeName = heldTo(pod)?.[0] ?? ["node-0", "node-1"].find((node) => node !== attached);
      const annotations = { ...metadata.annotations, template: JSON.stringify(spec.template) };
      await moe.make("pods", `${of.name}-${made++}`, { metadata: { ...metadata, annotations }, spec: { ...pod, nodeName } });
    }
    const bound = serversOf(moe).map(({ spec }) => spec.nodeName);
    attached = bound.find((node) => node === attached) ?? bound[0];
    const status = { phase: "Running", podIP: "10.0.0.9", conditions: [{ type: "Ready", status: "True" }] };
    for (const { metadata, spec } of serversOf(moe).filter((pod) => pod.status === undefined))
      if (spec.nodeName === attached) moe.mutate("pods", metadata.name, (pod) => Object.assign(pod, { status }));
  };
  let running = true;
  const loop = async () => {
    for (; running; await sleep(3)) await turn();
  };
  const ended = loop();
  t.after(() => {
    running = false;
    return ended;
  });
}

test("a blue/green of a claim for one node succeeds, and a second deployment on it, though nothing else leads pods to its node", async (t) => {
  const moe = await world(t);
  modes(moe, "ReadWriteOnce");
  oneDisk(t, moe);
  await moe.start();
  await moe.reaches("Complete");
  await moe.change({ model: { uri: "pvc://models/other" }, rolloutStrategy: { maxSurge: 1, maxUnavailable: 0 } });
  await until("a green deployment", () => moe.all("moeDeployments").length === 2);
  await until("all ranks have it", async () => moe.all("moeDeployments").length === 1 && (await moe.phase()) === "Complete");
  await moe.check("SpecAccepted", "Accepted");
  await moe.create({ model: { uri: "pvc://models/third" } }, { namespace: "ns", name: "second" });
  const isReady = (pod: any) => pod.status?.conditions[0].status === "True";
  await until("both weight servers", () => serversOf(moe).length === 2 && serversOf(moe).every(isReady));
  assert.equal(new Set(serversOf(moe).map(({ spec }) => spec.nodeName)).size, 1);
});
