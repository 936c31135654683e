// The check of a job on the plane: its pod on the API, what comes of its end, and an operator that dies in the middle.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { object, PlaneWorld, ref, stopPlanes, user } from "../../test/kit/training/training-plane.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

after(stopPlanes);

async function begin(change: object = {}): Promise<PlaneWorld> {
  const world = new PlaneWorld();
  world.checkEnd = undefined;
  await world.kube.create(resources.moeTrainingJobs, object(change), user);
  await world.start();
  await until("the pod that checks", () => world.checks.length === 1);
  return world;
}
const three = { replicas: 3, elasticity: { maxReplicas: 4 } };
const messageOf = async (world: PlaneWorld, type: string): Promise<string> =>
  (await world.status()).conditions?.find((one) => one.type === type)?.message ?? "";

test("a job that fits gets its pods, with no certificate for the one that checked, and that one goes", async () => {
  const world = await begin(three);
  const [check] = world.checks;
  assert.equal(await world.condition("Running"), "False Checking");
  assert.deepEqual(world.pods, []);
  world.end(check.metadata.name, { outcome: "Fits", message: "each of 3 ranks needs 0.5 GB", sizes: { leastRanks: 2, alone: false } });
  for (const rank of [0, 1, 2]) await world.pod(`j-train-${rank}-0`);
  await until("the pod that checked to be gone", () => world.checks.length === 0);
  assert.equal((await world.status()).check?.fits?.message, "each of 3 ranks needs 0.5 GB");
  const names = () => world.kube.all(resources.secrets).map(({ metadata }) => metadata.name);
  await until("certificates", () => names().includes("j-train-2-0-tls"));
  assert.deepEqual(
    names().filter((name) => name.includes("check")),
    [],
  );
});

test("a job that does not fit never has a pod that trains, says why, and is checked again when its spec changes", async () => {
  const world = await begin(three);
  const refusal = { outcome: "Failed", code: "DoesNotFit", message: "rank 0 of 3: give more spec.memoryPerRank", retry: false } as const;
  world.end(world.checks[0].metadata.name, refusal);
  await until("the refusal", async () => (await world.condition("SpecAccepted")) === "False DoesNotFit");
  await until("the pod that checked to be gone", () => world.checks.length === 0);
  assert.match(await messageOf(world, "SpecAccepted"), /rank 0 of 3: give more spec\.memoryPerRank/);
  await world.look();
  assert.deepEqual([world.pods, world.checks], [[], []]);
  world.checkEnd = { outcome: "Fits", message: "it fits" };
  await world.kube.patch(resources.moeTrainingJobs, ref, { spec: { memoryPerRank: "9Gi" } }, user);
  await world.pod("j-train-2-0");
  assert.equal(await world.condition("SpecAccepted"), "True Accepted");
});

test("an operator that dies while a job is checked is followed by one that knows the pod, and what it said", async () => {
  const world = await begin();
  const [check] = world.checks;
  await world.stop();
  await world.start();
  await world.look();
  assert.deepEqual(
    world.checks.map(({ metadata }) => metadata.uid),
    [check.metadata.uid],
  );
  await world.stop();
  world.end(check.metadata.name, { outcome: "Fits", message: "it fits" });
  await world.start();
  await world.pod("j-train-0-0");
  assert.deepEqual(world.checks, []);
  await world.stop();
  await world.start("enodia/training:2");
  await world.look();
  assert.deepEqual([world.checks, world.pods.length], [[], 1], "once is enough");
});

test("a pod that checks and dies without a word is followed by another after a pause", async () => {
  const world = await begin();
  world.end(world.checks[0].metadata.name, undefined);
  await until("it to be gone", () => world.checks.length === 0);
  assert.match(await messageOf(world, "Running"), /the pod that checks the job failed: .*; the next try is in|failed: /);
  world.skippedMs += 10_000;
  world.checkEnd = { outcome: "Fits", message: "it fits" };
  await world.look();
  await world.pod("j-train-0-0");
  assert.equal((await world.status()).check?.failures, 1);
});

test("a pod that checks and whose node is gone is not waited for", async () => {
  const world = await begin();
  const [{ metadata }] = world.checks;
  const silent = { status: { conditions: [{ type: "Ready", status: "Unknown", reason: "NodeStatusUnknown" }] } };
  await world.kube.create(resources.nodes, { apiVersion: "v1", kind: "Node", metadata: { name: "a" } }, user);
  world.kube.mutate(resources.nodes, { namespace: "", name: "a" }, (node) => Object.assign(node, silent));
  world.kube.mutate(resources.pods, { namespace: "ns", name: metadata.name }, (pod) =>
    Object.assign(pod.spec as object, { nodeName: "a" }),
  );
  world.run(metadata.name);
  await until("it to be given up", async () => (await world.status()).check?.lastEnd !== undefined);
  const { check } = await world.status();
  assert.deepEqual([check?.attempt, check?.failures], [1, undefined]);
});
