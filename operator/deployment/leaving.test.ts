// Nodes that are drained: ranks are replaced before they go, also under a new leader, and no fewer serve meanwhile.

import assert from "node:assert/strict";
import { test } from "node:test";
import { conditionOf, pods, ranks, serving, startOperator, status } from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { kubeError } from "../kube/errors.ts";
import { resources } from "../kube/kube.ts";

const cordon = (kube: FakeKube, name: string, unschedulable: boolean): void =>
  kube.mutate(resources.nodes, { namespace: "", name }, (node) => Object.assign(node, { spec: { unschedulable } }));
const leaving = (kube: FakeKube) => pods(kube).filter((pod) => pod.metadata.annotations["enodia.dev/leaving"] === "Evict");
const operation = async (kube: FakeKube) => (await status(kube)).operation?.type;

/** Whether three ranks are counted as serving, and the least of all looks at it. */
function watched(kube: FakeKube) {
  const seen = { least: 3 };
  const three = async (want: readonly number[]) => {
    const { availableReplicas = 0 } = await status(kube);
    seen.least = Math.min(seen.least, availableReplicas);
    return availableReplicas === 3 && String(ranks(kube)) === String(want);
  };
  return { seen, three };
}

test("a cordoned node: its rank is replaced first, emptied and then goes; three serve all the while", { timeout: 60_000 }, async () => {
  const { kube, operator, life, stop } = await serving();
  const { seen, three } = watched(kube);
  operator.rebalance.drain = "Moving";
  cordon(kube, "node-2", true);
  await until("the rank is being emptied", async () => (await three([])) || leaving(kube).length === 1);
  assert.deepEqual(ranks(kube), [0, 1, 2, 3]);
  assert.equal(await operation(kube), "Handover");
  assert.equal(conditionOf(await status(kube), "Progressing").reason, "HandingOver");
  operator.rebalance.drain = "Drained";
  operator.plane.controller.queue.add("ns/moe");
  await until("the others serve", () => three([0, 1, 3]));
  assert.equal(seen.least, 3);
  assert.equal(conditionOf(await status(kube), "Ready").status, "True");
  assert.deepEqual(life.problems, []);
  await stop();
});

test("an operator that dies in the middle is followed by one that goes on, and one pod more is made, not two", {
  timeout: 60_000,
}, async () => {
  const { kube, operator, life } = await serving();
  operator.rebalance.drain = "Moving";
  cordon(kube, "node-2", true);
  await until("the rank is being emptied", () => leaving(kube).length === 1);
  await operator.stop();
  const next = await startOperator(kube);
  await until("the others serve", async () => String(ranks(kube)) === "0,1,3" && (await status(kube)).availableReplicas === 3);
  assert.deepEqual(life.problems, []);
  life.stop();
  await next.stop();
});

test("an eviction: the pod is handed to the rebalance plane as leaving, and another is made before it is gone", {
  timeout: 60_000,
}, async () => {
  const { kube, operator, life, stop } = await serving();
  life.stop(); // the kubelet of its node takes its time
  const victim = pods(kube).find((pod) => pod.metadata.labels["enodia.dev/rank"] === "1");
  await kube.delete(resources.pods, { namespace: "ns", name: victim.metadata.name }, { uid: victim.metadata.uid });
  await until("another is made", () => String(ranks(kube)) === "0,1,2,3");
  await until("it is handed on", () => operator.rebalance.world?.leaving.length === 1);
  assert.deepEqual(operator.rebalance.world?.leaving, [{ rank: 1, podUid: victim.metadata.uid, reason: "Evict" }]);
  assert.equal(await operation(kube), "Handover");
  assert.equal(conditionOf(await status(kube), "Degraded").status, "False");
  await stop();
});

test("a quota without room for one more: the cordoned rank serves on, the condition says why, and nothing counts as missing", {
  timeout: 60_000,
}, async () => {
  const { kube, stop } = await serving();
  let asked = 0;
  kube.admit = (resource) => {
    if (resource.kind !== "Pod") return;
    asked++;
    throw kubeError(403, JSON.stringify({ message: "exceeded quota: pods, used: 3, limited: 3" }), "creating");
  };
  cordon(kube, "node-2", true);
  const says = async (reason: string) => conditionOf(await status(kube), "Progressing")?.reason === reason;
  await until("it is said", () => says("NoCapacityForReplacement"));
  const now = await status(kube);
  assert.match(conditionOf(now, "Progressing").message, /^rank 2 cannot stay \(node node-2 is cordoned\) .*exceeded quota/);
  assert.deepEqual([conditionOf(now, "Ready").status, conditionOf(now, "Degraded").status, leaving(kube).length], ["True", "False", 0]);
  assert.equal(asked, 1, "it is not asked for again at once");
  cordon(kube, "node-2", false);
  await until("all is well", () => says("Converged"));
  await stop();
});
