// The status is what the operator says, whoever else writes it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { conditionOf, ref, serving } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

const forge = (one: any) => {
  one.status.availableReplicas = 7;
  Object.assign(conditionOf(one.status, "Available"), { status: "False", reason: "Forged" });
};

test("a forged status is put right within two seconds", async (t) => {
  const moe = await serving(t);
  await sleep(1_100);
  moe.mutate("moeDeployments", "moe", forge);
  await until("it is put right", () => moe.ready(3), 2_000);
  await moe.check("Available", "True");
});

test("a late write of a former leader does not stand", async (t) => {
  const moe = await serving(t);
  const { apiVersion, kind, metadata, status } = await moe.get("moeDeployments");
  await moe.change({ replicas: 2 });
  await moe.serves(2);
  const late = { apiVersion, kind, metadata: { ...ref, uid: metadata.uid }, status };
  await moe.kube.applyStatus(resources.moeDeployments, late, { manager: "enodia-operator-status" });
  await until("it is put right", () => moe.ready(2), 3_000);
});

test("after a clock that was half an hour ahead a forged status is put right as soon as ever", async (t) => {
  const wall = Date.now();
  t.mock.timers.enable({ apis: ["Date"], now: wall + 1_800_000 });
  const moe = await serving(t);
  t.mock.timers.setTime(wall);
  await sleep(1_100);
  moe.mutate("moeDeployments", "moe", forge);
  t.mock.timers.reset();
  await until("it is put right", () => moe.ready(3), 2_000);
});

test("somebody who keeps writing another status is answered once a second at most", async (t) => {
  const moe = await serving(t);
  await sleep(1_100);
  let written = 0;
  moe.kube.onWrite = (_, resource) => {
    if (resource.kind === "MoEDeployment") written += 1;
  };
  for (const end = Date.now() + 1_500; Date.now() < end; await sleep(5)) moe.mutate("moeDeployments", "moe", forge);
  assert.ok(written >= 1 && written <= 3, `${written} writes in 1.5 s`);
});
