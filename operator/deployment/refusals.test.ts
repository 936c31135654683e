// Refusals by the operator, by a quota, by somebody else's object: each is said in the status, and nothing else stops for it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import {
  conditionOf,
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

const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const refused = (kube: FakeKube, reason: string, message: RegExp) => async () => {
  const found = conditionOf(await status(kube), "SpecAccepted");
  return found?.status === "False" && found.reason === reason && message.test(found.message);
};

/** A quota on pods that counts, as the API server's does, also in a dry run. */
function quota(kube: FakeKube, most: number): void {
  kube.admit = (resource, object) => {
    if (resource.kind !== "Pod" || pods(kube).length < most) return;
    const numbers = `requested: pods=1, used: pods=${most}, limited: pods=${most}`;
    throw new AppError(`pods "${object.metadata.name}" is forbidden: exceeded quota: q, ${numbers}`, {
      code: "Forbidden",
      retry: "backoff",
    });
  };
}

test("a quota that just fits holds up no roll and no replacement", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  quota(kube, 3);
  const before = pods(kube).map((object) => object.metadata.uid);
  await change(kube, { runtime: { maxContext: 64 } });
  await until(
    "all are new",
    async () => (await readyWith(kube, 3)()) && pods(kube).every((object) => !before.includes(object.metadata.uid)),
  );
  assert.equal(conditionOf(await status(kube), "SpecAccepted").status, "True");
  await stop();
});

test("a quota that is short is said where the missing rank is, in one event, and the others serve", { timeout: 30_000 }, async () => {
  const kube = await world();
  quota(kube, 2);
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("2 ranks serve", async () => (await status(kube)).availableReplicas === 2);
  const said = async () => conditionOf(await status(kube), "Ready")?.message ?? "";
  await until("it is said", async () => /2 of 3 ranks serve: rank 2: pods "moe-2" is forbidden: exceeded quota/.test(await said()));
  assert.equal(
    operator.rebalance.world?.workers.filter((worker) => worker.ready).length,
    2,
    "the rebalance plane hears of those that are there",
  );
  await sleep(50);
  const events = kube.all(resources.events).filter((event) => event.reason === "FailedCreate");
  assert.equal(new Set(events.map((event) => event.note)).size, events.length, "each is told once, however often it is tried");
  assert.ok(events.some((event) => /rank 2: pods "moe-2" is forbidden/.test(String(event.note))));
  life.stop();
  await operator.stop();
});

test("a certificate that cannot be written holds up neither the status nor the rebalance plane", { timeout: 30_000 }, async () => {
  const kube = await world();
  kube.onWrite = (_, resource, name) => {
    if (resource.kind === "Secret" && /^moe-1-.*-tls$/.test(name)) throw new AppError("not now", { code: "Unavailable", retry: "backoff" });
  };
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("the others serve", async () => (await status(kube)).availableReplicas === 2);
  assert.equal(operator.rebalance.world?.workers.length, 3);
  assert.match(conditionOf(await status(kube), "Ready").message, /not now/);
  kube.onWrite = () => {};
  await until("3 ranks serve", readyWith(kube, 3));
  life.stop();
  await operator.stop();
});

test("an object that cannot be read keeps its status, all but what says so", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  const { conditions, observedGeneration, ...before } = await status(kube);
  await change(kube, { runtime: { kvPool: "9000Pi" } });
  await until("the field is named", refused(kube, "InvalidSpec", /spec\.runtime\.kvPool/));
  const { conditions: after, observedGeneration: seen, ...rest } = await status(kube);
  assert.deepEqual([rest, seen], [before, observedGeneration + 1]);
  const others = (list: any[]) =>
    list
      .filter(({ type }) => type !== "SpecAccepted" && type !== "Ready")
      .map(({ observedGeneration: _, ...one }) => one)
      .sort((a, b) => a.type.localeCompare(b.type));
  assert.deepEqual(others(after), others(conditions));
  assert.equal(conditionOf({ conditions: after }, "Ready").reason, "InvalidSpec");
  await change(kube, { runtime: { kvPool: "256Mi" } });
  await until("all is well again", async () => conditionOf(await status(kube), "SpecAccepted")?.status === "True");
  await until("it is told", () => kube.all(resources.events).some((event) => event.reason === "Accepted"));
  await stop();
});

test("a Service of somebody else by the name of the deployment stays theirs", { timeout: 30_000 }, async () => {
  const kube = await world();
  const theirs = { apiVersion: "v1", kind: "Service", metadata: { ...ref }, spec: { selector: { app: "chat" } } };
  const made = await kube.create(resources.services, theirs, user);
  const operator = await startOperator(kube);
  await until("it is refused", refused(kube, "ObjectRefused", /Service moe exists and does not belong to this MoEDeployment/));
  assert.deepEqual(await kube.get(resources.services, ref), made);
  assert.deepEqual(pods(kube), []);
  await operator.stop();
});

test("a gateway template with a field of the operator's is refused and leaves the gateways as they are", { timeout: 30_000 }, async () => {
  const { kube, stop } = await serving();
  const [before] = kube.all(resources.deployments);
  await change(kube, { gateway: { podTemplate: { spec: { hostNetwork: true, priorityClassName: "high" } } } });
  await until("it is refused", refused(kube, "FieldNotSupported", /spec\.gateway\.podTemplate\.spec\.hostNetwork must be false/));
  assert.deepEqual(kube.all(resources.deployments)[0]?.spec, before?.spec);
  await stop();
});

test("a deployment that is being deleted is forgotten before it is gone", { timeout: 30_000 }, async () => {
  const { kube, operator, stop } = await serving();
  kube.mutate(resources.moeDeployments, ref, (one) => Object.assign(one.metadata, { deletionTimestamp: "2026-03-01T10:00:00Z" }));
  await until("its sessions are closed", () => operator.rebalance.forgotten.length === 1);
  await stop();
});
