// The number of gateways is the spec's, an autoscaler's or that of whoever scales them, and the operator fights none of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { conditionOf, kubelet, readyWith, ref, serving, startOperator, status, user } from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { manager } from "../kube/adoption.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
import { applies } from "../kube/managed-fields.ts";

const front = { namespace: "ns", name: "moe-gateway" };
const autoscaler = { manager: "kube-controller-manager", subresource: "scale" };
const person = { manager: "kubectl", subresource: "scale" };

const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const gateways = async (kube: FakeKube) => (await kube.get(resources.deployments, front)) as any;
const has = (kube: FakeKube, replicas: number) => async () => (await gateways(kube)).spec.replicas === replicas;
const scale = (kube: FakeKube, replicas: number, by: object) =>
  kube.mutate(resources.deployments, front, (one) => Object.assign(one.spec, { replicas }), by);
const conflict = async (kube: FakeKube) => conditionOf(await status(kube), "FieldConflict");
const inForce = async (kube: FakeKube, generation: number): Promise<void> =>
  until(`generation ${generation} is in effect`, async () => {
    const now = await status(kube);
    return now.observedGeneration === generation && conditionOf(now, "SpecAccepted")?.status === "True";
  });

/** Has the operator look several times, each for a reason of its own. */
async function passes(kube: FakeKube, queue: { add(key: string): void }): Promise<void> {
  for (const name of ["moe-gateway", "moe-workers", "moe-gateway"]) {
    kube.remove(resources.podDisruptionBudgets, { namespace: "ns", name });
    queue.add("ns/moe");
    await until(
      "the budget is back",
      async () => (await kube.get(resources.podDisruptionBudgets, { namespace: "ns", name })) !== undefined,
    );
  }
  await sleep(20);
}

test("with no number in the spec gateways stay as they are scaled, also under a new template and a new leader", {
  timeout: 60_000,
}, async () => {
  const { kube, life, operator } = await serving();
  const queue = operator.plane.controller.queue;
  assert.equal((await gateways(kube)).spec.replicas, 1);
  assert.ok(!applies(manager, await gateways(kube), ["spec", "replicas"]));
  scale(kube, 3, person);
  await until("3 gateways are counted", async () => (await status(kube)).gateway?.readyReplicas === 3);
  await passes(kube, queue);
  assert.deepEqual((await status(kube)).gateway, { replicas: 3, readyReplicas: 3 });
  await change(kube, { gateway: { podTemplate: { metadata: { labels: { tier: "front" } } } } });
  await until("the template follows", async () => (await gateways(kube)).spec.template.metadata.labels.tier === "front");
  assert.equal((await gateways(kube)).spec.replicas, 3);
  await operator.stop();
  const next = await startOperator(kube);
  await passes(kube, next.plane.controller.queue);
  assert.equal((await gateways(kube)).spec.replicas, 3);
  assert.equal((await conflict(kube)).status, "False");
  life.stop();
  await next.stop();
});

test("a number that is taken out of the spec stays, nobody's; one that is given is put back when somebody scales by hand", {
  timeout: 60_000,
}, async () => {
  const { kube, operator, stop } = await serving();
  await change(kube, { gateway: { replicas: 3 } });
  await until("there are 3", has(kube, 3));
  await change(kube, { gateway: { replicas: null } });
  await inForce(kube, 3);
  assert.equal((await gateways(kube)).spec.replicas, 3);
  assert.ok(!applies(manager, await gateways(kube), ["spec", "replicas"]));
  scale(kube, 5, autoscaler);
  await passes(kube, operator.plane.controller.queue);
  assert.equal((await gateways(kube)).spec.replicas, 5);
  await change(kube, { gateway: { replicas: 2 } });
  await until("there are 2, since the autoscaler that had set 5 is gone", has(kube, 2));
  scale(kube, 4, person);
  await until("there are 2 again", has(kube, 2));
  await stop();
});

test("autoscale makes an autoscaler, which has the number; it goes when a number is given", { timeout: 60_000 }, async () => {
  const { kube, operator, stop } = await serving();
  await change(kube, { gateway: { autoscale: { minReplicas: 2, maxReplicas: 6, targetCPUUtilizationPercentage: 70 } } });
  const autoscalers = () => kube.all(resources.horizontalPodAutoscalers) as any[];
  await until("there is one", () => autoscalers().length === 1);
  const [made] = autoscalers();
  assert.deepEqual([made.spec.minReplicas, made.spec.maxReplicas, made.spec.scaleTargetRef.name], [2, 6, "moe-gateway"]);
  assert.equal(made.spec.metrics[0].containerResource.target.averageUtilization, 70);
  scale(kube, 4, autoscaler);
  await passes(kube, operator.plane.controller.queue);
  assert.equal((await gateways(kube)).spec.replicas, 4);
  await change(kube, { suspend: true });
  await until("all are gone", has(kube, 0));
  await change(kube, { suspend: false });
  await until("one starts, and the autoscaler goes on from there", has(kube, 1));
  scale(kube, 4, autoscaler);
  await change(kube, { gateway: { autoscale: null, replicas: 2 } });
  await until("the number of the spec holds", async () => (await has(kube, 2)()) && autoscalers().length === 0);
  assert.equal((await conflict(kube)).status, "False");
  await stop();
});

test("an autoscaler of somebody else and a number in the spec are a condition with the remedy, and no storm", {
  timeout: 60_000,
}, async () => {
  const { kube, operator, stop } = await serving();
  await change(kube, { gateway: { replicas: 2 } });
  await until("there are 2", has(kube, 2));
  const { apiVersion, kind } = resources.horizontalPodAutoscalers;
  const spec = { scaleTargetRef: { kind: "Deployment", name: front.name }, maxReplicas: 9 };
  const foreign: KubeObject = { apiVersion, kind, metadata: { namespace: "ns", name: "theirs" }, spec };
  await kube.create(resources.horizontalPodAutoscalers, foreign, user);
  let tries = 0;
  kube.onWrite = (verb, { kind: of }) => {
    if (verb === "apply" && of === "Deployment") tries += 1;
  };
  scale(kube, 5, autoscaler);
  await until("it is said", async () => (await conflict(kube))?.status === "True");
  const { reason, message } = await conflict(kube);
  assert.equal(reason, "ManagedByOthers");
  assert.match(
    message,
    /^Deployment moe-gateway stays as it is: \.spec\.replicas is managed by kube-controller-manager \(scale\); unset spec/,
  );
  scale(kube, 6, autoscaler);
  scale(kube, 7, autoscaler);
  await passes(kube, operator.plane.controller.queue);
  assert.equal((await gateways(kube)).spec.replicas, 7);
  assert.equal(tries, 1);
  await until("it serves all the while", readyWith(kube, 3));
  assert.match(conditionOf(await status(kube), "SpecAccepted").message, /except where FieldConflict says so/);
  await change(kube, { gateway: { replicas: null } });
  await until("it is solved", async () => (await conflict(kube))?.status === "False");
  assert.equal((await gateways(kube)).spec.replicas, 7);
  await stop();
});

test("a crash at any write of a hand-over costs no gateway", { timeout: 60_000 }, async () => {
  for (const verb of ["patch", "apply"]) {
    const { kube, life, operator } = await serving();
    await change(kube, { gateway: { replicas: 3 } });
    await until("there are 3", has(kube, 3));
    await operator.stop();
    life.stop();
    await change(kube, { gateway: { replicas: null } });
    kube.onWrite = (each, { kind }) => {
      if (each === verb && kind === "Deployment") throw new Error("the process ends here");
    };
    const ending = await startOperator(kube);
    await until("it is said", async () => conditionOf(await status(kube), "SpecAccepted")?.status === "Unknown");
    await ending.stop();
    kube.onWrite = () => {};
    const again = kubelet(kube);
    const next = await startOperator(kube);
    await inForce(kube, 3);
    assert.equal((await gateways(kube)).spec.replicas, 3, verb);
    again.stop();
    await next.stop();
  }
});
