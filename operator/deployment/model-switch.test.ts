// Changes of model without a green deployment, where a roll has rules of its own: a model whose ranks do not start, a strategy that
// holds, canaries. Two models never run side by side, and each case comes to an end.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { crashing, type MoeWorld, modelFolder, serving, whole } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";

const other = { model: { uri: "pvc://models/other" } };
const isOther = (object: any): boolean => modelFolder(object) === "/models/other";
const brokenOther = (pod: any) => (isOther(pod) ? crashing : undefined);
const front = (moe: MoeWorld): any => moe.all("deployments")[0].spec;

/** A deployment without room for a green deployment (blue-green.test.ts), whose pods are watched until the test ends. */
async function watched(t: TestContext, fate?: (pod: any) => object | undefined) {
  const moe = await whole(t, fate, { rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
  const made: string[] = [];
  const mixed: string[] = [];
  const known = new Set(moe.uids);
  moe.kube.onWrite = () => {
    const here = moe.pods;
    const models = new Set(here.map(modelFolder));
    if (models.size > 1) mixed.push([...models].join(" and "));
    made.push(...here.filter(({ metadata }) => !known.has(metadata.uid)).map(modelFolder));
    for (const { metadata } of here) known.add(metadata.uid);
  };
  t.after(() => assert.deepEqual(mixed, []));
  return { moe, made };
}
/** All ranks and gateways have the model, and nothing is done any more. */
const settled = (moe: MoeWorld, wanted: "first" | "other") =>
  until(`the ${wanted} model serves`, async () => {
    const all = [...moe.pods, front(moe).template].every((object) => isOther(object) === (wanted === "other"));
    return all && front(moe).replicas !== 0 && (await moe.counts(3)) && (await moe.status()).operation === undefined;
  });
async function rolledBack(moe: MoeWorld): Promise<any> {
  await moe.reaches("RolledBack");
  await settled(moe, "first");
  return (await moe.status()).rollout.rolledBack;
}

test("a model whose ranks crash is rolled back with ranks and gateways, says why, and ends", async (t) => {
  const { moe, made } = await watched(t, brokenOther);
  await moe.change(other);
  const { fromRevision, toRevision, reason, id } = await rolledBack(moe);
  const count = made.length;
  await sleep(300);
  assert.equal(made.length, count, "no pod is made any more");
  assert.deepEqual([fromRevision, toRevision, reason], [2, 1, "Crashing"]);
  assert.equal((await moe.status()).history.find((one: any) => one.id === id)?.result, "RolledBack");
  await moe.check("SpecAccepted", /revision 2 was rolled back to revision 1: Crashing: pod moe-/);
});

const ending = (code: string, restartCount: number): object => {
  const message = JSON.stringify({ level: "fatal", code, message: "the remedy" });
  return { ...crashing, containerStatuses: [{ restartCount, state: {}, lastState: { terminated: { exitCode: 1, message } } }] };
};
const image = { podTemplate: { spec: { containers: [{ name: "runtime", image: "other" }] } } };
const lastWords: Record<string, { code: string; to: object; sleeps?: boolean }> = {
  "a model that is not there": { code: "ModelNotFound", to: other },
  "a model for which all ranks lack memory": { code: "InsufficientMemory", to: other },
  "an image that wakes and cannot read the model": { code: "BadModelIndex", to: image, sleeps: true },
};
for (const [what, { code, to, sleeps = false }] of Object.entries(lastWords))
  test(`${what} is rolled back for the ends of its ranks, once they have been restarted`, async (t) => {
    const ended = new Set<string>();
    const isNew = (pod: any) => isOther(pod) || pod.spec.containers[0].image === "other";
    const fate = (pod: any) => (isNew(pod) && ended.add(pod.metadata.uid) ? ending(code, 1) : undefined);
    const moe = await serving(t, fate, { rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
    await moe.reaches("Complete");
    moe.aheadMs = 0;
    await moe.start();
    moe.aheadMs = 11_000; // a leader that has had time to ask
    if (sleeps) await moe.change({ suspend: true });
    if (sleeps) await until("all stopped", () => moe.pods.length === 0);
    await moe.change({ ...to, suspend: false });
    await until("ranks have ended", () => ended.size >= 3);
    await sleep(100);
    for (const { metadata } of moe.pods.filter(isNew))
      moe.mutate("pods", metadata.name, (pod) => Object.assign(pod, { status: ending(code, 3) }));
    assert.equal((await rolledBack(moe)).reason, "Crashing");
  });

test("another leader goes on with a model that is being rolled back", async (t) => {
  const { moe } = await watched(t, brokenOther);
  await moe.change(other);
  await until("it is rolled back", async () => (await moe.status()).rollout?.rolledBack !== undefined);
  await moe.start();
  await rolledBack(moe);
});

test("a model that was rolled back is tried again when somebody asks, and serves when it can", async (t) => {
  let broken = true;
  const { moe } = await watched(t, (pod) => (broken ? brokenOther(pod) : undefined));
  await moe.change(other);
  const { id } = await rolledBack(moe);
  broken = false;
  await moe.patch({ metadata: { annotations: { "enodia.dev/retry-rollout": id } } });
  await settled(moe, "other");
  assert.equal((await moe.status()).rollout.rolledBack, undefined);
});

const holds: Record<string, { strategy: object; phase: string; free: object; says: RegExp }> = {
  paused: { strategy: { paused: true }, phase: "Paused", free: { paused: false }, says: /all ranks change .*paused is false/ },
  "with a partition": { strategy: { partition: 1 }, phase: "Partitioned", free: { partition: 0 }, says: /all ranks .*partition is 0/ },
  OnDelete: { strategy: { type: "OnDelete" }, phase: "OnDelete", free: { type: "RollingUpdate" }, says: /all ranks .* is RollingUpdate/ },
};
for (const [name, { strategy, phase, free, says }] of Object.entries(holds))
  test(`${name}, the model before serves on, lost ranks too, until all ranks may change`, async (t) => {
    const { moe, made } = await watched(t);
    await moe.change({ ...other, rolloutStrategy: strategy });
    await moe.reaches(phase);
    assert.match((await moe.status()).rollout.message, says);
    assert.deepEqual([made, isOther(front(moe).template), front(moe).replicas !== 0], [[], false, true]);
    moe.lose(1);
    await until("3 ranks serve", async () => made.length > 0 && (await moe.ready(3)));
    assert.deepEqual(new Set(made), new Set(["/models/moe"]));
    await moe.change({ rolloutStrategy: free });
    await settled(moe, "other");
    const count = made.length;
    await sleep(100);
    assert.equal(made.length, count);
  });

test("a change of model goes without canaries, since others could not serve beside them", async (t) => {
  const { moe, made } = await watched(t);
  await moe.change({ ...other, rolloutStrategy: { canary: { analysis: { bake: "1h" } } } });
  await settled(moe, "other");
  await sleep(100);
  assert.equal(made.length, 3);
});

test("OnDelete, a suspension is when the model changes", async (t) => {
  const { moe } = await watched(t);
  await moe.change({ ...other, rolloutStrategy: { type: "OnDelete" } });
  await moe.reaches("OnDelete");
  await moe.change({ suspend: true });
  await until("all stopped", () => moe.pods.length === 0);
  await moe.change({ suspend: false });
  await settled(moe, "other");
});

test("a strategy that comes in the middle of a change does not take it back", async (t) => {
  const { moe } = await watched(t);
  await moe.change(other);
  await until("a rank of the other model is there", () => moe.pods.some(isOther));
  await moe.change({ rolloutStrategy: { paused: true } });
  await settled(moe, "other");
});
