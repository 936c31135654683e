// Rolls in a simulated cluster: a template that fails is rolled back and stays out until somebody wants it, budgets and holds are kept,
// and another leader goes on with all of it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { crashing, type MoeWorld, whole, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";

const good = "enodia/runtime:test";
const bad = "enodia/runtime:bad";
const next = "enodia/runtime:next";
const imageOf = (pod: any): string => pod.spec.containers[0].image;
const images = (moe: MoeWorld): string[] => moe.pods.map(imageOf).sort();
const roll = (moe: MoeWorld, image: string, rolloutStrategy?: object) =>
  moe.change({ runtimeImage: { image }, ...(rolloutStrategy && { rolloutStrategy }) });
const rollout = async (moe: MoeWorld) => (await moe.status()).rollout;
const brokenImage = (pod: any) => (imageOf(pod) === bad ? crashing : undefined);
const front = (moe: MoeWorld): string => imageOf(moe.all("deployments")[0].spec.template);
/** All ranks serve with the image, and nothing is done any more; whether the spec is accepted is another matter. */
const has = async (moe: MoeWorld, image: string) =>
  String(images(moe)) === String([image, image, image]) && (await moe.counts(3)) && (await moe.status()).operation === undefined;
const settled = (moe: MoeWorld, image: string) => until(`all have ${image}`, () => has(moe, image));
async function rolledBack(moe: MoeWorld): Promise<void> {
  await moe.reaches("RolledBack");
  await until("what was made for it is gone", () => moe.pods.length === 3);
}

test("a template whose pods crash is rolled back, and no rank that served went for it", async (t) => {
  const moe = await whole(t, brokenImage);
  const were = moe.uids;
  await roll(moe, bad);
  await rolledBack(moe);
  assert.deepEqual([moe.uids, images(moe), front(moe)], [were, [good, good, good], good]);
  const { fromRevision, toRevision, reason, id } = (await rollout(moe)).rolledBack;
  assert.deepEqual([fromRevision, toRevision, reason], [2, 1, "Crashing"]);
  const why = /revision 2 was rolled back to revision 1: Crashing: pod moe-3-\w+ of rank 3 has crashed 3 times/;
  const remedy = /enodia rollout resume moe -n ns; meanwhile the spec of generation 1 stays in effect/;
  await moe.check("SpecAccepted", "False", "RolledBack", why, remedy);
  assert.equal((await moe.get("moeDeployments")).spec.runtimeImage.image, bad, "the spec is its owner's");
  await until("the operation has ended", async () => (await moe.status()).operation === undefined);
  const past = (await moe.status()).history.find((one: any) => one.id === id);
  assert.deepEqual([past.type, past.result, past.from.revision, past.to.revision], ["Roll", "RolledBack", 1, 2]);
  assert.ok(moe.events("RolledBack").some(({ type }) => type === "Warning"));
});

test("another leader keeps out what was rolled back; another template ends it", async (t) => {
  const moe = await whole(t, brokenImage);
  await roll(moe, bad);
  await rolledBack(moe);
  await moe.stop();
  const made: string[] = [];
  const { create } = moe.kube;
  moe.kube.create = async (resource, object, options) => {
    if (resource.kind === "Pod" && !options.dryRun) made.push(imageOf(object));
    return create(resource, object, options);
  };
  await moe.start();
  await moe.change({ replicas: 4 });
  await until("4 ranks serve", async () => (await moe.status()).availableReplicas === 4);
  await sleep(50);
  assert.deepEqual(made, [good], "a scale is no reason to try it again");
  await moe.change({ replicas: 3 });
  await roll(moe, next);
  await settled(moe, next);
  assert.equal((await rollout(moe)).rolledBack, undefined);
  await moe.check("SpecAccepted", "True");
});

test("what was rolled back is tried again when somebody names it, and rolled back anew when it fails again", async (t) => {
  let broken = true;
  const moe = await whole(t, (pod) => (broken ? brokenImage(pod) : undefined));
  await roll(moe, bad);
  await moe.reaches("RolledBack");
  const last = async (): Promise<string> => (await rollout(moe)).rolledBack.id;
  const first = await last();
  const retry = (id: string) => moe.patch({ metadata: { annotations: { "enodia.dev/retry-rollout": id } } });
  await retry(first);
  await until("it fails again", async () => (await moe.phase()) === "RolledBack" && (await last()) !== first);
  await rolledBack(moe);
  await sleep(50);
  assert.deepEqual(images(moe), [good, good, good], "one retry is one try");
  broken = false;
  await retry(await last());
  await settled(moe, bad);
  assert.equal(front(moe), bad);
});

test("a pod that is not ready in time takes the roll back, in the middle of it too", async (t) => {
  let started = 0;
  const slow = { phase: "Running", conditions: [{ type: "Ready", status: "False" }] };
  const moe = await whole(t, (pod) => (imageOf(pod) === bad && ++started > 1 ? slow : undefined));
  await roll(moe, bad, { progressDeadline: "3s" });
  await moe.reaches("RolledBack");
  await settled(moe, good);
  assert.equal(started, 2, "one rank served with it");
  assert.equal((await rollout(moe)).rolledBack.reason, "ProgressDeadlineExceeded");
});

test("the first template of a deployment has none to go back to: it waits as it is", async (t) => {
  const moe = await world(t, {}, () => crashing);
  await moe.start();
  await until("all crash", () => moe.pods.filter((pod) => pod.status).length === 3);
  await sleep(200);
  const { phase, stableRevision, rolledBack } = await rollout(moe);
  assert.deepEqual([phase, stableRevision, rolledBack], ["Progressing", undefined, undefined]);
  await moe.check("SpecAccepted", "True");
});

test("several ranks are replaced at once where the budget has room for them", async (t) => {
  const moe = await whole(t);
  let [most, least] = [0, 3];
  moe.kube.onWrite = () => {
    const stay = moe.pods.filter(({ status, metadata }) => status?.phase === "Running" && !metadata.annotations["enodia.dev/leaving"]);
    [most, least] = [Math.max(most, moe.pods.length), Math.min(least, stay.length)];
  };
  await roll(moe, next, { maxSurge: 3 });
  await settled(moe, next);
  assert.deepEqual([most, least], [6, 3]);
});

test("paused and with a partition, ranks and gateways stay, and lost ones come back as they were", async (t) => {
  const moe = await whole(t);
  const were = moe.uids;
  await roll(moe, next, { paused: true });
  await moe.reaches("Paused");
  await moe.check("Progressing", "RolloutPaused");
  assert.deepEqual([moe.uids, front(moe)], [were, good]);
  moe.lose(1);
  await moe.serves(3);
  assert.deepEqual(images(moe), [good, good, good]);
  const revisions = moe.all("controllerRevisions").length;
  await moe.change({ rolloutStrategy: { paused: false, partition: 1 } });
  await moe.reaches("Partitioned");
  assert.deepEqual(images(moe), [next, next, good]);
  assert.equal(moe.all("controllerRevisions").length, revisions, "a strategy is no part of a revision");
  await moe.change({ rolloutStrategy: { partition: 0 } });
  await settled(moe, next);
});

const canary = (bake: string) => ({ canary: { analysis: { bake } } });

test("a canary serves its time before the others follow, under another leader too", async (t) => {
  const moe = await whole(t);
  await roll(moe, next, canary("2s"));
  await moe.reaches("Baking");
  assert.deepEqual([images(moe), front(moe)], [[next, good, good], good]);
  const { id, phase, type } = (await moe.status()).operation;
  const since = (await rollout(moe)).bakeStart;
  assert.deepEqual([type, phase], ["Roll", "Baking"]);
  await moe.start();
  await sleep(100);
  assert.deepEqual([(await moe.status()).operation.id, (await rollout(moe)).bakeStart], [id, since]);
  await settled(moe, next);
  assert.ok(Date.now() - Date.parse(since) >= 2_000);
  assert.equal(front(moe), next);
});

test("a canary that crashes while it bakes takes the roll back", async (t) => {
  const moe = await whole(t);
  await roll(moe, bad, canary("1h"));
  await moe.reaches("Baking");
  const { name } = moe.pods.find((pod) => imageOf(pod) === bad).metadata;
  moe.mutate("pods", name, (pod) => Object.assign(pod, { status: crashing }));
  await moe.reaches("RolledBack");
  await settled(moe, good);
});

test("a new roll in the middle of one is an operation of its own, and ends with one template on every rank", async (t) => {
  const moe = await whole(t);
  await roll(moe, bad);
  await until("one rank has it", () => images(moe).includes(bad));
  await roll(moe, next);
  await settled(moe, next);
  const [last, before] = (await moe.status()).history;
  assert.deepEqual([last.result, last.to.revision, before.result, before.to.revision], ["Done", 3, "Superseded", 2]);
});
