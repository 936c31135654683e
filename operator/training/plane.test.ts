// The training plane on the in-memory API: lives of jobs whose pods and kubelet are played.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { moeTrainingJobStatusSchema } from "../../crds/moe-training-job-status.ts";
import { object, PlaneWorld, ref, stopPlanes, user } from "../../test/kit/training/training-plane.ts";
import { until } from "../../test/kit/wait.ts";
import { Informers } from "../kube/informers.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
import { sweepAuthorities } from "../pki/authority-sweep.ts";
import { certifiedDeployment, certifiedJob } from "../pki/certified.ts";

after(stopPlanes);

test("a job gets a pod by its spec, tells how far it is, outlives a killed pod and an operator, and ends without pods for good", async () => {
  const world = new PlaneWorld();
  await world.kube.create(resources.moeTrainingJobs, object(), user);
  await world.start();
  const pod = await world.pod("j-train-0-0");
  const [container] = pod.spec.containers;
  const open = ({ spec }: any) => spec.schedulingGates.length === 0;
  await until("its gate to open", () => world.pods.some(open));
  assert.ok(await world.kube.get(resources.secrets, { namespace: "ns", name: "j-train-0-0-tls" }));
  assert.equal(pod.spec.restartPolicy, "Never");
  assert.equal(container.image, "enodia/training:1");
  assert.deepEqual(container.resources, { limits: { memory: "1Gi" }, requests: { cpu: "2", memory: "1Gi" } });
  assert.deepEqual(
    container.volumeMounts.map(({ mountPath, readOnly }: any) => `${mountPath}${readOnly ? " read-only" : ""}`),
    ["/tmp", "/etc/enodia/tls read-only", "/claims/models", "/claims/data read-only"],
  );
  assert.equal(pod.spec.volumes.length, 4, "a claim that two fields name is one volume");

  world.report = { step: 40, loss: 2.5, curve: [{ step: 40, loss: 2.5 }] };
  world.run("j-train-0-0");
  await until("progress", async () => (await world.status()).step === 40);
  assert.equal(await world.condition("Running"), "True Training");

  world.end("j-train-0-0", undefined);
  await until("the killed pod to be gone", () => world.pods.length === 0);
  assert.equal((await world.status()).restarts, 1);
  await world.stop();
  world.skippedMs = 60_000;
  await world.start("enodia/training:2");
  const second = await world.pod("j-train-0-1");
  assert.equal(second.spec.containers[0].image, "enodia/training:1", "a job keeps its image");

  world.end("j-train-0-1", { outcome: "Complete", report: { step: 100, loss: 1.25, curve: [] } });
  await until("the pod to be gone", () => world.pods.length === 0);
  assert.equal(await world.condition("Complete"), "True AllStepsDone");
  const { loss, progress, result } = await world.status();
  assert.deepEqual([loss, progress, result?.store], ["1.2500", "100%", "pvc://models/out/store"]);
  world.kube.mutate(resources.moeTrainingJobs, ref, (job) => {
    job.spec.failurePolicy = { maxRestarts: 3 };
    job.metadata.generation = 2;
  });
  await until("the new generation to be seen", async () => (await world.status()).observedGeneration === 2);
  assert.deepEqual(world.pods, []);
  const reasons = new Set(world.kube.all(resources.events).map(({ reason }) => reason));
  for (const reason of ["Training", "Restarting", "AllStepsDone"]) assert.ok(reasons.has(reason), reason);
});

test("suspend ends the pod, and the job goes on without a restart counted", async () => {
  const world = new PlaneWorld();
  await world.kube.create(resources.moeTrainingJobs, object(), user);
  await world.start();
  await world.pod("j-train-0-0");
  const suspend = (value: boolean) => world.kube.patch(resources.moeTrainingJobs, ref, { spec: { suspend: value } }, user);
  await suspend(true);
  await until("the pod to be gone", () => world.pods.length === 0);
  assert.equal(await world.condition("Suspended"), "True Requested");
  await suspend(false);
  await world.pod("j-train-0-0");
  await until("the condition", async () => (await world.condition("Suspended")) === "False Resumed");
  assert.equal((await world.status()).restarts, 0);
});

test("a pod that the API server refuses is told with its words, and asked for again", async () => {
  const world = new PlaneWorld();
  let refusals = 0;
  world.kube.admit = (resource) => {
    if (resource.kind !== "Pod" || refusals++ > 0) return;
    throw new AppError("exceeded quota: memory", { code: "Forbidden" });
  };
  await world.kube.create(resources.moeTrainingJobs, object(), user);
  await world.start();
  await until("the refusal", async () => (await world.condition("Running")) === "False PodRefused");
  assert.match((await world.status()).conditions?.find(({ type }) => type === "Running")?.message ?? "", /exceeded quota: memory/);
  await world.look();
  await world.pod("j-train-0-0");
});

test("a template with what is the operator's is refused, and one with a node selector is taken up", async () => {
  const world = new PlaneWorld();
  const resourcesOf = (memory: object) => ({ containers: [{ name: "runtime", resources: { limits: memory } }] });
  await world.kube.create(resources.moeTrainingJobs, object({ podTemplate: { spec: resourcesOf({ memory: "9Gi" }) } }), user);
  await world.start();
  await until("the refusal", async () => (await world.condition("SpecAccepted")) === "False FieldNotSupported");
  assert.match((await world.status()).conditions?.[0]?.message ?? "", /memory is spec\.memoryPerRank/);
  assert.deepEqual(world.pods, []);
  const podTemplate = { spec: { nodeSelector: { a: "b" }, ...resourcesOf({ cpu: "4" }) } };
  await world.kube.patch(resources.moeTrainingJobs, ref, { spec: { podTemplate } }, user);
  const pod = await world.pod("j-train-0-0");
  assert.deepEqual(pod.spec.nodeSelector, { a: "b" });
  assert.deepEqual(pod.spec.containers[0].resources.limits, { cpu: "4", memory: "1Gi" });
});

test("a job that was deleted and made again waits for the former one's pod", async () => {
  const world = new PlaneWorld();
  const first = await world.kube.create(resources.moeTrainingJobs, object(), user);
  await world.start();
  await world.pod("j-train-0-0");
  await world.stop();
  world.kube.mutate(resources.pods, { namespace: "ns", name: "j-train-0-0" }, (pod) => {
    pod.metadata.ownerReferences[0].uid = "former";
  });
  world.run("j-train-0-0");
  await world.start();
  await until("the wait", async () => (await world.condition("Running")) === "False Replacing");
  assert.match((await world.status()).conditions?.find(({ type }) => type === "Running")?.message ?? "", /j-train-0-0 may write/);
  assert.notEqual(first.metadata.uid, "former");
  await world.kube.delete(resources.pods, { namespace: "ns", name: "j-train-0-0" }, {});
  const own = await world.pod("j-train-0-0");
  assert.equal(own.metadata.ownerReferences[0].uid, first.metadata.uid);
});

test("of two jobs with one output the older trains, and the other says which and gets no pod until then", async () => {
  const world = new PlaneWorld();
  await world.kube.create(resources.moeTrainingJobs, object(), user);
  world.kube.mutate(resources.moeTrainingJobs, ref, (job) => {
    job.metadata.creationTimestamp = "2020-01-01T00:00:00Z";
  });
  const second = { namespace: "ns", name: "second" };
  await world.kube.create(resources.moeTrainingJobs, { ...object(), metadata: second }, user);
  await world.start();
  await world.pod("j-train-0-0");
  const accepted = async () => {
    const { conditions = [] } = moeTrainingJobStatusSchema.parse((await world.kube.get(resources.moeTrainingJobs, second))?.status ?? {});
    return conditions.find(({ type }) => type === "SpecAccepted");
  };
  await until("the refusal", async () => (await accepted())?.reason === "OutputTaken");
  assert.match((await accepted())?.message ?? "", /pvc:\/\/models\/out is that of job j,/);
  assert.deepEqual(
    world.pods.map(({ metadata }) => metadata.name),
    ["j-train-0-0"],
  );
  world.end("j-train-0-0", { outcome: "Complete" });
  await until("the first to be complete", async () => (await world.condition("Complete")) === "True AllStepsDone");
  world.plane?.controller.queue.add("ns/second");
  await world.pod("second-train-0-0");
});

test("the pods of a job go to the node of a claim that one node has, check and ranks alike, and another follows when that node is gone", async () => {
  const world = new PlaneWorld();
  world.checkEnd = undefined;
  const [models, server] = ["models", "server"].map((name) => ({ namespace: "ns", name }));
  const claim = { apiVersion: "v1", kind: "PersistentVolumeClaim", spec: { accessModes: ["ReadWriteOnce"] } };
  await world.kube.create(resources.persistentVolumeClaims, { ...claim, metadata: { ...models } } as KubeObject, user);
  const marks = { "enodia.dev/deployment": "moe", "app.kubernetes.io/managed-by": "enodia-operator" };
  const volumes = [{ name: "models", persistentVolumeClaim: { claimName: "models" } }];
  const spec = { nodeName: "node-1", containers: [], volumes };
  const has = { apiVersion: "v1", kind: "Pod", metadata: { ...server, labels: marks }, spec, status: { phase: "Running" } };
  await world.kube.create(resources.nodes, { apiVersion: "v1", kind: "Node", metadata: { name: "node-1" } } as KubeObject, user);
  await world.kube.create(resources.pods, has as unknown as KubeObject, user);
  const ours = (names: any[]) => names.filter(({ metadata }) => metadata.labels["enodia.dev/training-job"] === "j");
  const heldTo = ({ spec }: any) =>
    spec.affinity?.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields?.[0].values;
  const affinity = { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions: [] }] } } };
  const elastic = { replicas: 2, elasticity: { maxReplicas: 2 }, podTemplate: { spec: { affinity } } };
  await world.kube.create(resources.moeTrainingJobs, object(elastic), user);
  await world.start();
  await until("its check", () => ours(world.checks).length === 1);
  assert.deepEqual(heldTo(world.checks[0]), ["node-1"]);
  world.end(world.checks[0].metadata.name, { outcome: "Fits", message: "it fits" });
  await until("its ranks", () => ours(world.pods).length === 2);
  assert.deepEqual(ours(world.pods).map(heldTo), [["node-1"], ["node-1"]]);
  const { uid } = ours(world.pods)[0].metadata;
  world.kube.remove(resources.nodes, { namespace: "", name: "node-1" });
  world.skippedMs = 60_000;
  await world.look();
  await until("other pods", () => ours(world.pods).length === 2 && ours(world.pods).every(({ metadata }) => metadata.uid !== uid));
  assert.deepEqual(ours(world.pods).map(heldTo), [undefined, undefined], "none is held to a node that is gone");
});

test("an object that cannot be read says so, and gets no pod", async () => {
  const world = new PlaneWorld();
  await world.kube.create(resources.moeTrainingJobs, object({ steps: "many" }), user);
  await world.start();
  await until("the condition", async () => (await world.condition("SpecAccepted")) === "False InvalidSpec");
  assert.deepEqual(world.pods, []);
});

const ranksOf = (count: number) => object({ replicas: count, elasticity: { maxReplicas: 4 } });
const uids = (world: PlaneWorld, names: readonly string[]) =>
  names.map((name) => world.pods.find((one) => one.metadata.name === name)?.metadata.uid);

test("ranks get pods and certificates, meet in a world that is in the status before they are told, and a killed one alone is replaced", async () => {
  const world = new PlaneWorld();
  await world.kube.create(resources.moeTrainingJobs, ranksOf(3), user);
  await world.start();
  const names = ["j-train-0-0", "j-train-1-0", "j-train-2-0"];
  for (const [i, name] of names.entries()) {
    assert.equal((await world.pod(name)).metadata.labels["enodia.dev/rank"], String(i));
    world.run(name, `10.0.0.${i}`);
  }
  await until("the world", async () => (await world.status()).world?.epoch === 1);
  assert.deepEqual(
    (await world.status()).world?.ranks.map(({ uid }) => uid),
    uids(world, names),
  );
  await until("all to be told", () => [...world.told.values()].every(({ order }) => order.world?.epoch === 1));
  assert.equal(await world.condition("Running"), "True Training");
  const leaves = world.kube.all(resources.secrets).filter(({ metadata }) => metadata.labels?.["enodia.dev/training-job"] === "j");
  assert.deepEqual(
    leaves.map(({ metadata }) => metadata.name).toSorted(),
    names.map((name) => `${name}-tls`),
  );
  const [ca] = world.kube.all(resources.secrets).filter(({ metadata }) => metadata.namespace === "enodia-system");
  assert.equal(ca?.metadata.labels?.["enodia.dev/authority-kind"], "MoETrainingJob");

  const before = uids(world, ["j-train-0-0", "j-train-2-0"]);
  world.end("j-train-1-0", undefined);
  await until("the killed pod to be gone", () => world.pods.length === 2);
  await until("the others to train on", async () => (await world.condition("Running")) === "True FewerRanks");
  const fewer = (await world.status()).world;
  assert.deepEqual([fewer?.epoch, fewer?.ranks.map(({ uid }) => uid)], [2, before]);
  world.skippedMs += 10_000;
  await world.look();
  await world.pod("j-train-1-1");
  world.run("j-train-1-1", "10.0.0.7");
  await until("another world", async () => (await world.status()).world?.epoch === 3);
  assert.deepEqual(uids(world, ["j-train-0-0", "j-train-2-0"]), before, "the others stay");
  assert.equal((await world.status()).restarts, 1);
});

test("ranks whose memory is too small for what a lost one had wait for another", async () => {
  const world = new PlaneWorld();
  world.leastRanks = 2;
  await world.kube.create(resources.moeTrainingJobs, ranksOf(2), user);
  await world.start();
  for (const rank of [0, 1]) {
    await world.pod(`j-train-${rank}-0`);
    world.run(`j-train-${rank}-0`, `10.0.0.${rank}`);
  }
  await until("the world", async () => (await world.status()).world?.epoch === 1);
  world.end("j-train-1-0", undefined);
  await until("the killed pod to be gone", () => world.pods.length === 1);
  world.skippedMs += 10_000;
  await world.look();
  await world.pod("j-train-1-1");
  await until("the wait", async () => (await world.condition("Running")) === "False RankLost");
  const message = (await world.status()).conditions?.find(({ type }) => type === "Running")?.message ?? "";
  assert.match(message, /rank 1: .*; the others do not train without it: their memory is enough for 2 ranks or more/);
  world.run("j-train-1-1", "10.0.0.7");
  await until("another world", async () => (await world.status()).world?.epoch === 2);
});

test("a job grows once its new pods answer, and shrinks at once; a pod that has handed on what it had is deleted", async () => {
  const world = new PlaneWorld();
  await world.kube.create(resources.moeTrainingJobs, ranksOf(2), user);
  await world.start();
  const scale = (replicas: number) => world.kube.patch(resources.moeTrainingJobs, ref, { spec: { replicas } }, user);
  const size = async () => (await world.status()).world?.ranks.length;
  for (const rank of [0, 1]) {
    await world.pod(`j-train-${rank}-0`);
    world.run(`j-train-${rank}-0`, `10.0.0.${rank}`);
  }
  await until("two ranks", async () => (await size()) === 2);
  await scale(3);
  await world.pod("j-train-2-0");
  await until("the wait", async () => (await world.condition("Running")) === "True Rescaling");
  assert.equal(await size(), 2, "two train on meanwhile");
  world.run("j-train-2-0", "10.0.0.2");
  await until("three ranks", async () => (await size()) === 3);
  await scale(1);
  await until("one rank", async () => (await size()) === 1);
  const leaving = (await world.status()).world?.leaving?.map(({ uid }) => uid);
  assert.deepEqual(leaving, uids(world, ["j-train-1-0", "j-train-2-0"]));
  await until("those that leave to be told", () => leaving?.every((uid) => world.told.get(uid)?.order.world?.epoch === 3) ?? false);
  assert.equal(world.pods.length, 3);
  for (const rank of [1, 2]) world.end(`j-train-${rank}-0`, { outcome: "Stopped" });
  await until("its pod alone", () => world.pods.length === 1);
  assert.equal((await world.status()).world?.epoch, 3);
});

test("ranks that left their world are given another, of the same pods", async () => {
  const world = new PlaneWorld();
  await world.kube.create(resources.moeTrainingJobs, ranksOf(2), user);
  await world.start();
  for (const rank of [0, 1]) {
    const { metadata } = await world.pod(`j-train-${rank}-0`);
    world.run(metadata.name, `10.0.0.${rank}`);
  }
  await until("the world", async () => (await world.status()).world?.epoch === 1);
  for (const uid of uids(world, ["j-train-0-0", "j-train-1-0"]))
    world.left.set(uid, { epoch: 1, code: "RankSilent", message: "the other rank said nothing" });
  world.skippedMs += 60_000;
  await world.look();
  await until("another", async () => (await world.status()).world?.epoch === 2);
});

test("the CA of a job goes with it, and a deployment of its name changes nothing", async () => {
  const world = new PlaneWorld();
  const { metadata } = await world.kube.create(resources.moeTrainingJobs, ranksOf(2), user);
  await world.start();
  const authorities = () => world.kube.all(resources.secrets).filter((one) => one.metadata.namespace === "enodia-system");
  await until("its CA", () => authorities().length === 1);
  await world.stop();
  const sweep = async (): Promise<void> => {
    const informers = new Informers([], "enodia-system", { kube: world.kube, random: () => 0 });
    informers.start();
    await informers.refresh();
    await sweepAuthorities({ kube: world.kube, informers });
    await informers.stop();
  };
  await sweep();
  assert.equal(authorities().length, 1);
  world.kube.remove(resources.moeTrainingJobs, ref);
  await world.kube.create(
    resources.moeDeployments,
    { ...object(), kind: "MoEDeployment", metadata: { ...ref, uid: metadata.uid } } as KubeObject,
    user,
  );
  await sweep();
  assert.equal(authorities().length, 0);
});

test("a deployment of the same name has other names in certificates and other labels than the job", () => {
  assert.notEqual(certifiedJob.scope("j"), certifiedDeployment.scope("j"));
  assert.notEqual(certifiedJob.label, certifiedDeployment.label);
});
