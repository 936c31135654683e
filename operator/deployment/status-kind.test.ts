// The status is what the operator says, whoever else writes it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { conditionOf, readyWith, ref, serving, status, until, user } from "../../test/kit/deployment/deployment-plane.ts";
import { resources } from "../kube/kube.ts";

const forge = (one: any) => {
  one.status.availableReplicas = 7;
  Object.assign(conditionOf(one.status, "Available"), { status: "False", reason: "Forged" });
};

test("a forged status is put right within two seconds", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  await sleep(1_100);
  kube.mutate(resources.moeDeployments, ref, forge);
  await until("it is put right", readyWith(kube, 3), 2_000);
  assert.equal(conditionOf(await status(kube), "Available").status, "True");
  await stop();
});

test("a late write of a former leader does not stand", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  const old = (await kube.get(resources.moeDeployments, ref)) as any;
  await kube.patch(resources.moeDeployments, ref, { spec: { replicas: 2 } }, user);
  await until("2 ranks serve", readyWith(kube, 2));
  const { apiVersion, kind, metadata } = old;
  const late = { apiVersion, kind, metadata: { ...ref, uid: metadata.uid }, status: old.status };
  await kube.applyStatus(resources.moeDeployments, late, { manager: "enodia-operator-status" });
  await until("it is put right", readyWith(kube, 2), 3_000);
  await stop();
});

test("after a clock that was half an hour ahead a forged status is put right as soon as ever", { timeout: 30_000 }, async (t) => {
  const wall = Date.now();
  t.mock.timers.enable({ apis: ["Date"], now: wall + 1_800_000 });
  const { kube, stop } = await serving();
  t.mock.timers.setTime(wall);
  await sleep(1_100);
  kube.mutate(resources.moeDeployments, ref, forge);
  t.mock.timers.reset();
  await until("it is put right", readyWith(kube, 3), 2_000);
  await stop();
});

test("somebody who keeps writing another status is answered once a second at most", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  await sleep(1_100);
  let written = 0;
  kube.onWrite = (_, resource) => {
    if (resource.kind === "MoEDeployment") written += 1;
  };
  const end = Date.now() + 1_500;
  while (Date.now() < end) {
    kube.mutate(resources.moeDeployments, ref, forge);
    await sleep(5);
  }
  assert.ok(written >= 1 && written <= 3, `${written} writes in 1.5 s`);
  await stop();
});
