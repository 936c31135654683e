// Nodes that are drained: ranks are replaced before they go, also under a new leader, and no fewer serve meanwhile.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type MoeWorld, ref, serving } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { kubeError } from "../kube/errors.ts";
import { resources } from "../kube/kube.ts";

const cordon = (moe: MoeWorld, unschedulable = true): void =>
  moe.mutate("nodes", "node-2", (node) => Object.assign(node, { spec: { unschedulable } }));
const leaving = (moe: MoeWorld) => moe.pods.filter((pod) => pod.metadata.annotations["enodia.dev/leaving"] === "Evict");
const operation = async (moe: MoeWorld) => (await moe.status()).operation?.type;

test("a cordoned node: its rank is replaced first, emptied and then goes; three serve all the while", async (t) => {
  const moe = await serving(t);
  let least = 3;
  const three = async (want: readonly number[]) => {
    const { availableReplicas = 0 } = await moe.status();
    least = Math.min(least, availableReplicas);
    return availableReplicas === 3 && String(moe.ranks) === String(want);
  };
  moe.rebalance.drain = "Moving";
  cordon(moe);
  await until("the rank is being emptied", async () => (await three([])) || leaving(moe).length === 1);
  assert.deepEqual(moe.ranks, [0, 1, 2, 3]);
  assert.equal(await operation(moe), "Handover");
  await moe.check("Progressing", "HandingOver");
  moe.rebalance.drain = "Drained";
  moe.wake();
  await until("the others serve", () => three([0, 1, 3]));
  assert.equal(least, 3);
  await moe.check("Ready", "True");
});

test("an operator that dies in the middle is followed by one that goes on, and one pod more is made, not two", async (t) => {
  const moe = await serving(t);
  moe.rebalance.drain = "Moving";
  cordon(moe);
  await until("the rank is being emptied", () => leaving(moe).length === 1);
  await moe.start();
  await until("the others serve", async () => String(moe.ranks) === "0,1,3" && (await moe.status()).availableReplicas === 3);
});

test("an eviction: the pod is handed to the rebalance plane as leaving, and another is made before it is gone", async (t) => {
  const moe = await serving(t);
  moe.kubelet.stop(); // that of its node takes its time
  const { name, uid } = moe.podOf(1).metadata;
  await moe.kube.delete(resources.pods, { ...ref, name }, { uid });
  await until("another is made", () => String(moe.ranks) === "0,1,2,3");
  await until("it is handed on", () => moe.rebalance.world?.leaving.length === 1);
  assert.deepEqual(moe.rebalance.world?.leaving, [{ rank: 1, podUid: uid, reason: "Evict" }]);
  assert.equal(await operation(moe), "Handover");
  await moe.check("Degraded", "False");
});

test("a quota without room for one more: the cordoned rank serves on, the condition says why, and nothing counts as missing", async (t) => {
  const moe = await serving(t);
  let asked = 0;
  moe.kube.admit = ({ kind }) => {
    if (kind !== "Pod") return;
    asked++;
    throw kubeError(403, JSON.stringify({ message: "exceeded quota: pods, used: 3, limited: 3" }), "creating");
  };
  cordon(moe);
  await moe.comes("Progressing", "NoCapacityForReplacement", /^rank 2 cannot stay \(node node-2 is cordoned\) .*exceeded quota/);
  await moe.check("Ready", "True");
  await moe.check("Degraded", "False");
  assert.deepEqual(leaving(moe), []);
  assert.equal(asked, 1, "it is not asked for again at once");
  cordon(moe, false);
  await moe.comes("Progressing", "Converged");
});
