// Rolls in a simulated cluster: a template that fails is rolled back and stays out until somebody wants it, budgets and holds are kept,
// and another leader goes on with all of it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  conditionOf,
  crashing,
  kubelet,
  pods,
  readyWith,
  ref,
  serving,
  startOperator,
  status,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

const good = "enodia/runtime:test";
const bad = "enodia/runtime:bad";
const next = "enodia/runtime:next";
const imageOf = (pod: any): string => pod.spec.containers[0].image;
const images = (kube: FakeKube): string[] => pods(kube).map(imageOf).sort();
const uids = (kube: FakeKube): string[] => pods(kube).map((pod) => pod.metadata.uid);
const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const roll = (kube: FakeKube, image: string, more: object = {}) => change(kube, { runtimeImage: { image }, ...more });
const rollout = async (kube: FakeKube) => (await status(kube)).rollout;
const inPhase = (kube: FakeKube, phase: string) => async () => (await rollout(kube))?.phase === phase;
const brokenImage = (pod: any) => (imageOf(pod) === bad ? crashing : undefined);
const front = (kube: FakeKube): string => (kube.all(resources.deployments)[0] as any).spec.template.spec.containers[0].image;
/** All ranks serve with the image, and nothing is done any more; whether the spec is accepted is another matter. */
const settled = (kube: FakeKube, image: string) => async () => {
  const { availableReplicas, operation } = await status(kube);
  return availableReplicas === 3 && images(kube).join() === [image, image, image].join() && operation === undefined;
};

test("a template whose pods crash is rolled back, and no rank that served went for it", { timeout: 120_000 }, async () => {
  const { kube, life, stop } = await serving(brokenImage);
  await until("it was whole", inPhase(kube, "Complete"));
  const were = uids(kube);
  await roll(kube, bad);
  await until("it is rolled back", inPhase(kube, "RolledBack"));
  await until("what was made for it is gone", () => pods(kube).length === 3);
  assert.deepEqual([uids(kube), images(kube)], [were, [good, good, good]]);
  assert.equal(front(kube), good, "gateways too");
  const now = await status(kube);
  const { fromRevision, toRevision, reason, id } = now.rollout.rolledBack;
  assert.deepEqual([fromRevision, toRevision, reason], [2, 1, "Crashing"]);
  const { status: accepted, reason: why, message } = conditionOf(now, "SpecAccepted");
  assert.deepEqual([accepted, why], ["False", "RolledBack"]);
  assert.match(message, /revision 2 was rolled back to revision 1: Crashing: pod moe-3-\w+ of rank 3 has crashed 3 times/);
  assert.match(message, /enodia rollout resume moe -n ns; meanwhile the spec of generation 1 stays in effect/);
  assert.equal(((await kube.get(resources.moeDeployments, ref)) as any).spec.runtimeImage.image, bad, "the spec is its owner's");
  await until("the operation has ended", async () => (await status(kube)).operation === undefined);
  const past = (await status(kube)).history.find((one: any) => one.id === id);
  assert.deepEqual([past.type, past.result, past.from.revision, past.to.revision], ["Roll", "RolledBack", 1, 2]);
  assert.ok(kube.all(resources.events).some((event: any) => event.reason === "RolledBack" && event.type === "Warning"));
  assert.deepEqual(life.problems, []);
  await stop();
});

test("another leader keeps out what was rolled back; another template ends it", { timeout: 120_000 }, async () => {
  const { kube, life, operator } = await serving(brokenImage);
  await until("it was whole", inPhase(kube, "Complete"));
  await roll(kube, bad);
  await until("it is rolled back", inPhase(kube, "RolledBack"));
  await until("what was made for it is gone", () => pods(kube).length === 3);
  await operator.stop();
  const made = watchCreations(kube);
  const another = await startOperator(kube);
  await change(kube, { replicas: 4 });
  await until("4 ranks serve", async () => (await status(kube)).availableReplicas === 4);
  await sleep(50);
  assert.deepEqual(made, [good], "a scale is no reason to try it again");
  await change(kube, { replicas: 3 });
  await roll(kube, next);
  await until("another template rolls", settled(kube, next));
  assert.equal((await rollout(kube)).rolledBack, undefined);
  assert.equal(conditionOf(await status(kube), "SpecAccepted").status, "True");
  life.stop();
  await another.stop();
});

/** The images of pods that are made from now on. */
function watchCreations(kube: FakeKube): string[] {
  const made: string[] = [];
  const create = kube.create;
  kube.create = async (resource, object, options) => {
    if (resource.kind === "Pod" && !options.dryRun) made.push(imageOf(object));
    return create(resource, object, options);
  };
  return made;
}

test("what was rolled back is tried again when somebody names it, and rolled back anew when it fails again", {
  timeout: 120_000,
}, async () => {
  let broken = true;
  const { kube, stop } = await serving((pod) => (broken ? brokenImage(pod) : undefined));
  await until("it was whole", inPhase(kube, "Complete"));
  await roll(kube, bad);
  await until("it is rolled back", inPhase(kube, "RolledBack"));
  const { id: first } = (await rollout(kube)).rolledBack;
  const retry = (id: string) =>
    kube.patch(resources.moeDeployments, ref, { metadata: { annotations: { "enodia.dev/retry-rollout": id } } }, user);
  await retry(first);
  await until("it fails again", async () => {
    const { phase, rolledBack } = await rollout(kube);
    return phase === "RolledBack" && rolledBack.id !== first;
  });
  await until("what was made for it is gone", () => pods(kube).length === 3);
  await sleep(50);
  assert.deepEqual(images(kube), [good, good, good], "one retry is one try");
  broken = false;
  await retry((await rollout(kube)).rolledBack.id);
  await until("it is rolled out", settled(kube, bad));
  assert.equal(front(kube), bad);
  await stop();
});

test("a pod that is not ready in time takes the roll back, in the middle of it too", { timeout: 120_000 }, async () => {
  let started = 0;
  const slow = { phase: "Running", conditions: [{ type: "Ready", status: "False", lastTransitionTime: "2026-01-01T00:00:00Z" }] };
  const { kube, stop } = await serving((pod) => (imageOf(pod) === bad && ++started > 1 ? slow : undefined));
  await until("it was whole", inPhase(kube, "Complete"));
  await roll(kube, bad);
  await until("all are as before", async () => (await inPhase(kube, "RolledBack")()) && settled(kube, good)());
  assert.equal(started, 2, "one rank served with it");
  assert.equal((await rollout(kube)).rolledBack.reason, "ProgressDeadlineExceeded");
  await stop();
});

test("the first template of a deployment has none to go back to: it waits as it is", { timeout: 120_000 }, async () => {
  const kube = await world();
  const life = kubelet(kube, () => crashing);
  const operator = await startOperator(kube);
  await until("all crash", () => pods(kube).filter((pod) => pod.status).length === 3);
  await sleep(200);
  const { phase, stableRevision, rolledBack } = await rollout(kube);
  assert.deepEqual([phase, stableRevision, rolledBack], ["Progressing", undefined, undefined]);
  assert.equal(conditionOf(await status(kube), "SpecAccepted").status, "True");
  life.stop();
  await operator.stop();
});

test("several ranks are replaced at once where the budget has room for them", { timeout: 120_000 }, async () => {
  const { kube, stop } = await serving();
  await until("it was whole", inPhase(kube, "Complete"));
  let most = 0;
  let least = 3;
  kube.onWrite = () => {
    most = Math.max(most, pods(kube).length);
    least = Math.min(
      least,
      pods(kube).filter((pod) => pod.status?.phase === "Running" && !pod.metadata.annotations["enodia.dev/leaving"]).length,
    );
  };
  await roll(kube, next, { rolloutStrategy: { maxSurge: 3 } });
  await until("it is rolled out", settled(kube, next));
  assert.deepEqual([most, least], [6, 3]);
  await stop();
});

test("paused and with a partition, ranks and gateways stay, and lost ones come back as they were", { timeout: 120_000 }, async () => {
  const { kube, stop } = await serving();
  await until("it was whole", inPhase(kube, "Complete"));
  const were = uids(kube);
  await roll(kube, next, { rolloutStrategy: { paused: true } });
  await until("it is paused", inPhase(kube, "Paused"));
  assert.equal(conditionOf(await status(kube), "Progressing").reason, "RolloutPaused");
  assert.deepEqual([uids(kube), front(kube)], [were, good]);
  kube.remove(resources.pods, { namespace: "ns", name: pods(kube)[1].metadata.name });
  await until("3 ranks serve", readyWith(kube, 3));
  assert.deepEqual(images(kube), [good, good, good]);
  const revisions = kube.all(resources.controllerRevisions).length;
  await change(kube, { rolloutStrategy: { paused: false, partition: 1 } });
  await until("one keeps the template before", inPhase(kube, "Partitioned"));
  assert.deepEqual(images(kube), [next, next, good]);
  assert.equal(kube.all(resources.controllerRevisions).length, revisions, "a strategy is no part of a revision");
  await change(kube, { rolloutStrategy: { partition: 0 } });
  await until("all have it", settled(kube, next));
  await stop();
});

test("a canary serves its time before the others follow, under another leader too", { timeout: 120_000 }, async () => {
  const { kube, life, operator } = await serving();
  await until("it was whole", inPhase(kube, "Complete"));
  await roll(kube, next, { rolloutStrategy: { canary: { analysis: { bake: "2s" } } } });
  await until("it bakes", inPhase(kube, "Baking"));
  assert.deepEqual([images(kube), front(kube)], [[next, good, good], good]);
  const { id, phase, type } = (await status(kube)).operation;
  const since = (await rollout(kube)).bakeStart;
  assert.deepEqual([type, phase], ["Roll", "Baking"]);
  await operator.stop();
  const another = await startOperator(kube);
  await sleep(100);
  assert.deepEqual([(await status(kube)).operation.id, (await rollout(kube)).bakeStart], [id, since]);
  await until("the others follow", settled(kube, next));
  assert.ok(Date.now() - Date.parse(since) >= 2_000);
  assert.equal(front(kube), next);
  life.stop();
  await another.stop();
});

test("a canary that crashes while it bakes takes the roll back", { timeout: 120_000 }, async () => {
  const { kube, stop } = await serving();
  await until("it was whole", inPhase(kube, "Complete"));
  await roll(kube, bad, { rolloutStrategy: { canary: { analysis: { bake: "1h" } } } });
  await until("it bakes", inPhase(kube, "Baking"));
  const [canary] = pods(kube).filter((pod) => imageOf(pod) === bad);
  kube.mutate(resources.pods, { namespace: "ns", name: canary.metadata.name }, (pod) => Object.assign(pod, { status: crashing }));
  await until("all are as before", async () => (await inPhase(kube, "RolledBack")()) && settled(kube, good)());
  await stop();
});

test("a new roll in the middle of one is an operation of its own, and ends with one template on every rank", {
  timeout: 120_000,
}, async () => {
  const { kube, stop } = await serving();
  await until("it was whole", inPhase(kube, "Complete"));
  await roll(kube, bad);
  await until("one rank has it", () => images(kube).includes(bad));
  await roll(kube, next);
  await until("it is rolled out", settled(kube, next));
  const [last, before] = (await status(kube)).history;
  assert.deepEqual([last.result, last.to.revision, before.result, before.to.revision], ["Done", 3, "Superseded", 2]);
  await stop();
});
