// Changes of model without a green deployment, where a roll has rules of its own: a model whose ranks do not start, a strategy that
// holds, canaries.
// Two models never run side by side, and each case comes to an end.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  conditionOf,
  crashing,
  pods,
  readyWith,
  ref,
  serving,
  startOperator,
  status,
  user,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const other = { model: { uri: "pvc://models/other" } };
/** Of a pod of a rank, or a template of gateways. */
const folderOf = (object: any): string =>
  object.spec.containers[0].env.find(({ name }: { name: string }) => name === "ENODIA_MODEL_PATH")?.value ??
  object.metadata.annotations["enodia.dev/model-place"].replace(/^[^/]*/, "");
const isOther = (object: any): boolean => folderOf(object) === "/models/other";
const front = (kube: FakeKube): any => kube.all(resources.deployments)[0];
const inPhase = (kube: FakeKube, phase: string) => async () => (await status(kube)).rollout?.phase === phase;
/** All ranks and gateways have the model, and nothing is done any more. */
const settled = (kube: FakeKube, wanted: "first" | "other") => async () => {
  const { availableReplicas, operation } = await status(kube);
  const all = [...pods(kube), front(kube).spec.template].every((object) => isOther(object) === (wanted === "other"));
  return availableReplicas === 3 && pods(kube).length === 3 && all && front(kube).spec.replicas !== 0 && operation === undefined;
};

interface Seen {
  /** Models that were there at once. */
  readonly mixed: string[];
  /** Pods that were made since. */
  readonly made: string[];
}
function watch(kube: FakeKube): Seen {
  const seen: Seen = { mixed: [], made: [] };
  const known = new Set(pods(kube).map(({ metadata }) => metadata.uid));
  kube.onWrite = () => {
    const here = pods(kube);
    const models = new Set(here.map(folderOf));
    if (models.size > 1) seen.mixed.push([...models].join(" and "));
    for (const pod of here) {
      if (!known.has(pod.metadata.uid)) seen.made.push(folderOf(pod));
      known.add(pod.metadata.uid);
    }
  };
  return seen;
}
const whole = async (fate?: (pod: any) => object | undefined) => {
  const cluster = await serving(fate);
  // Without room for a green deployment (green deployment.test.ts).
  await change(cluster.kube, { rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
  await until("it was whole", inPhase(cluster.kube, "Complete"));
  return cluster;
};
const brokenOther = (pod: any) => (isOther(pod) ? crashing : undefined);

test("a model whose ranks crash is rolled back with ranks and gateways, says why, and ends", { timeout: 120_000 }, async () => {
  const { kube, stop } = await whole(brokenOther);
  const seen = watch(kube);
  await change(kube, other);
  await until("the model before serves again", async () => (await inPhase(kube, "RolledBack")()) && (await settled(kube, "first")()));
  const made = seen.made.length;
  await sleep(300);
  assert.equal(seen.made.length, made, "no pod is made any more");
  assert.deepEqual(seen.mixed, []);
  const now = await status(kube);
  const { fromRevision, toRevision, reason, id } = now.rollout.rolledBack;
  assert.deepEqual([fromRevision, toRevision, reason], [2, 1, "Crashing"]);
  assert.equal(now.history.find((one: any) => one.id === id)?.result, "RolledBack");
  assert.match(conditionOf(now, "SpecAccepted").message, /revision 2 was rolled back to revision 1: Crashing: pod moe-/);
  await stop();
});

test("another leader goes on with a model that is being rolled back", { timeout: 120_000 }, async () => {
  const { kube, life, operator } = await whole(brokenOther);
  const seen = watch(kube);
  await change(kube, other);
  await until("it is rolled back", async () => (await status(kube)).rollout?.rolledBack !== undefined);
  await operator.stop();
  const another = await startOperator(kube);
  await until("the model before serves again", async () => (await inPhase(kube, "RolledBack")()) && (await settled(kube, "first")()));
  assert.deepEqual(seen.mixed, []);
  life.stop();
  await another.stop();
});

test("a model that was rolled back is tried again when somebody asks, and serves when it can", { timeout: 120_000 }, async () => {
  let broken = true;
  const { kube, stop } = await whole((pod) => (broken ? brokenOther(pod) : undefined));
  const seen = watch(kube);
  await change(kube, other);
  await until("the model before serves again", async () => (await inPhase(kube, "RolledBack")()) && (await settled(kube, "first")()));
  broken = false;
  const { id } = (await status(kube)).rollout.rolledBack;
  await kube.patch(resources.moeDeployments, ref, { metadata: { annotations: { "enodia.dev/retry-rollout": id } } }, user);
  await until("the other model serves", settled(kube, "other"));
  assert.deepEqual(seen.mixed, []);
  assert.equal((await status(kube)).rollout.rolledBack, undefined);
  await stop();
});

const holds: Record<string, { strategy: object; phase: string; free: object; says: RegExp }> = {
  paused: { strategy: { paused: true }, phase: "Paused", free: { paused: false }, says: /all ranks change .*paused is false/ },
  "with a partition": { strategy: { partition: 1 }, phase: "Partitioned", free: { partition: 0 }, says: /all ranks .*partition is 0/ },
  OnDelete: { strategy: { type: "OnDelete" }, phase: "OnDelete", free: { type: "RollingUpdate" }, says: /all ranks .* is RollingUpdate/ },
};
for (const [name, { strategy, phase, free, says }] of Object.entries(holds))
  test(`${name}, the model before serves on, lost ranks too, until all ranks may change`, { timeout: 120_000 }, async () => {
    const { kube, stop } = await whole();
    const seen = watch(kube);
    await change(kube, { ...other, rolloutStrategy: strategy });
    await until("it is held", inPhase(kube, phase));
    assert.match((await status(kube)).rollout.message, says);
    assert.deepEqual([seen.made, isOther(front(kube).spec.template), front(kube).spec.replicas !== 0], [[], false, true]);
    kube.remove(resources.pods, { namespace: "ns", name: pods(kube)[1].metadata.name });
    await until("3 ranks serve", async () => seen.made.length > 0 && (await readyWith(kube, 3)()));
    assert.deepEqual(new Set(seen.made), new Set(["/models/moe"]));
    await change(kube, { rolloutStrategy: free });
    await until("the other model serves", settled(kube, "other"));
    const made = seen.made.length;
    await sleep(100);
    assert.deepEqual([seen.mixed, seen.made.length], [[], made]);
    await stop();
  });

test("a change of model goes without canaries, since others could not serve beside them", { timeout: 120_000 }, async () => {
  const { kube, stop } = await whole();
  const seen = watch(kube);
  await change(kube, { ...other, rolloutStrategy: { canary: { analysis: { bake: "1h" } } } });
  await until("the other model serves", settled(kube, "other"));
  await sleep(100);
  assert.deepEqual([seen.mixed, seen.made.length], [[], 3]);
  await stop();
});

test("OnDelete, a suspension is when the model changes", { timeout: 120_000 }, async () => {
  const { kube, stop } = await whole();
  const seen = watch(kube);
  await change(kube, { ...other, rolloutStrategy: { type: "OnDelete" } });
  await until("it is held", inPhase(kube, "OnDelete"));
  await change(kube, { suspend: true });
  await until("all stopped", () => pods(kube).length === 0);
  await change(kube, { suspend: false });
  await until("the other model serves", settled(kube, "other"));
  assert.deepEqual(seen.mixed, []);
  await stop();
});

test("a strategy that comes in the middle of a change does not take it back", { timeout: 120_000 }, async () => {
  const { kube, stop } = await whole();
  const seen = watch(kube);
  await change(kube, other);
  await until("a rank of the other model is there", () => pods(kube).some(isOther));
  await change(kube, { rolloutStrategy: { paused: true } });
  await until("the other model serves", settled(kube, "other"));
  assert.deepEqual(seen.mixed, []);
  await stop();
});
