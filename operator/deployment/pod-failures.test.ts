// Pods that cannot live or cannot be made cost a few requests, not a storm of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type MoeWorld, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";

/** A node without room: pods of this rank are refused by its kubelet. */
function refuseRank(moe: MoeWorld, rank: string): () => void {
  const timer = setInterval(() => {
    for (const { metadata, status } of moe.pods) {
      if (metadata.labels["enodia.dev/rank"] !== rank || status?.phase === "Failed") continue;
      const failed = { phase: "Failed", reason: "OutOfcpu", message: "Node didn't have enough resource: cpu" };
      moe.mutate("pods", metadata.name, (pod) => Object.assign(pod, { status: failed }));
    }
  }, 1);
  return () => clearInterval(timer);
}

test("a rank whose pods fail is made again after growing pauses, which a new leader keeps", async (t) => {
  const moe = await world(t);
  const { create } = moe.kube;
  let made = 0; // of rank 1, dry runs left out
  moe.kube.create = async (resource, object, options) => {
    if (resource.kind === "Pod" && !options.dryRun && object.metadata.labels?.["enodia.dev/rank"] === "1") made += 1;
    return create(resource, object, options);
  };
  const relent = refuseRank(moe, "1");
  t.after(relent);
  await moe.start();
  await sleep(2_500);
  assert.ok(made <= 4, `${made} pods in 2.5 s`);
  await until("it is made again, and that failed", async () => (await moe.status()).expertParallel?.podFailures?.[0]?.count >= 2);
  const [failure] = (await moe.status()).expertParallel.podFailures;
  assert.deepEqual([failure.rank, failure.reason], [1, "OutOfcpu"]);
  await moe.comes("Ready", /pods in a row ended \(OutOfcpu\)/);
  await moe.stop();
  const before = made;
  await moe.start();
  await sleep(500);
  assert.ok(made <= before + 1, `${made - before} more from a new leader`);
  relent();
  await moe.serves(3);
});

test("many pods are made in batches that grow, and one refusal ends them", async (t) => {
  const moe = await world(t, { replicas: 64 });
  moe.kubelet.stop();
  let [open, asked] = [false, 0];
  moe.refuse((kind) => {
    if (kind !== "Pod") return;
    asked += 1;
    return !open && "exceeded quota: q";
  });
  const { create } = moe.kube;
  moe.kube.create = async (resource, object, options) => (options.dryRun ? object : create(resource, object, options));
  await moe.start();
  await sleep(1_000);
  assert.ok(asked <= 12, `${asked} pods are asked for in a second of refusals`);
  await until("they are asked for again", () => asked >= 2);
  open = true;
  await until("all are made", () => moe.pods.length === 64, 30_000);
});
