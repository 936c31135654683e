// The life of a deployment as the deployment plane makes it: start, scale, roll, suspend, lost nodes, refusals, deletion.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import {
  conditionOf,
  pods,
  ranks,
  readyWith,
  ref,
  serving,
  startOperator,
  status,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import { until } from "../../test/kit/wait.ts";
import { Informers } from "../kube/informers.ts";
import { resources } from "../kube/kube.ts";

test("a deployment becomes Ready, scales, rolls, suspends, and its objects are all there", { timeout: 30_000 }, async () => {
  const { kube, life, stop } = await serving();
  assert.deepEqual(ranks(kube), [0, 1, 2]);
  for (const resource of [resources.serviceAccounts, resources.podDisruptionBudgets, resources.deployments, resources.services])
    assert.ok(kube.all(resource).length > 0, resource.plural);
  assert.deepEqual(
    kube
      .all(resources.secrets)
      .map(({ metadata: { namespace, name } }) => `${namespace}/${name}`.replace(/-[a-z0-9]{5}-tls/, "-x-tls").replace(/\.[^.]*$/, ".uid"))
      .sort(),
    [
      "enodia-system/enodia-ca.ns.moe.uid",
      ...["moe-0-x-tls", "moe-1-x-tls", "moe-2-x-tls", "moe-gateway-tls", "moe-telemetry"].map((name) => `ns/${name}`),
    ],
  );
  const { observedGeneration, selector, address } = await status(kube);
  assert.deepEqual(
    [observedGeneration, selector, address.url],
    [1, "enodia.dev/deployment=moe,enodia.dev/component=worker", "http://moe.ns.svc:8000"],
  );

  await kube.patch(resources.moeDeployments, ref, { spec: { replicas: 2 } }, user);
  await until("2 ranks serve", readyWith(kube, 2));
  assert.equal(
    kube.all(resources.secrets).filter((secret) => /-\d-/.test(secret.metadata.name)).length,
    2,
    "certificates go with their pods",
  );

  const before = pods(kube).map((object) => object.metadata.uid);
  await kube.patch(resources.moeDeployments, ref, { spec: { runtime: { maxContext: 64 } } }, user);
  await until(
    "both are new",
    async () => (await readyWith(kube, 2)()) && pods(kube).every((object) => !before.includes(object.metadata.uid)),
  );

  await kube.patch(resources.moeDeployments, ref, { spec: { suspend: true } }, user);
  await until("all pods are gone", async () => pods(kube).length === 0 && conditionOf(await status(kube), "Ready")?.reason === "Suspended");
  await kube.patch(resources.moeDeployments, ref, { spec: { suspend: false } }, user);
  await until("it is back", readyWith(kube, 2));
  await stop();
  assert.deepEqual(life.problems, []);
});

test("a steady deployment costs no writes", { timeout: 30_000 }, async () => {
  const { kube, operator, stop } = await serving();
  await sleep(100);
  const before = kube.writes;
  for (let i = 0; i < 20; i++) {
    operator.plane.controller.queue.add("ns/moe");
    await sleep(5);
  }
  assert.equal(kube.writes, before);
  await stop();
});

test("a rank on a node that does not answer is replaced while the old pod still shows", { timeout: 30_000 }, async () => {
  const { kube, operator, stop } = await serving();
  const victim = pods(kube).find((object) => object.metadata.labels["enodia.dev/rank"] === "1");
  kube.mutate(resources.nodes, { namespace: "", name: "node-1" }, (one) => Object.assign(one.status.conditions[0], { status: "Unknown" }));
  await until("a new pod has rank 1", () =>
    pods(kube).some((object) => object.metadata.labels["enodia.dev/rank"] === "1" && object.metadata.uid !== victim.metadata.uid),
  );
  assert.equal(await kube.get(resources.pods, { namespace: "ns", name: victim.metadata.name }), undefined);
  await operator.plane.controller.stop();
  assert.ok(kube.all(resources.events).some((event) => event.reason === "NodeLost"));
  await stop();
});

test("ranks that serve on are left alone though their nodes do not answer, and lost with the nodes they are not reached on", {
  timeout: 30_000,
}, async () => {
  const { kube, operator, stop } = await serving();
  const before = pods(kube).map((object) => object.metadata.uid);
  operator.rebalance.streamsOutliveNodes = true;
  for (const name of ["node-0", "node-1", "node-2"])
    kube.mutate(resources.nodes, { namespace: "", name }, (one) => Object.assign(one.status.conditions[0], { status: "Unknown" }));
  await sleep(100);
  assert.deepEqual(
    pods(kube).map((object) => object.metadata.uid),
    before,
  );
  operator.rebalance.streamsOutliveNodes = false;
  operator.plane.controller.queue.add("ns/moe");
  await sleep(100);
  assert.deepEqual(
    pods(kube).map((object) => object.metadata.uid),
    before,
    "all nodes at once are no failure of nodes",
  );
  await stop();
});

test("what the API server or the operator refuses is said in SpecAccepted, and running pods are left alone", {
  timeout: 30_000,
}, async () => {
  const { kube, stop } = await serving();
  const uids = pods(kube)
    .map((object) => object.metadata.uid)
    .sort();
  kube.admit = (resource, object) => {
    if (resource.kind === "Pod" && (object.spec as any).priorityClassName)
      throw new AppError("no PriorityClass with name gold was found", { code: "Forbidden" });
  };
  const refusal = async (reason: string) => {
    const found = conditionOf(await status(kube), "SpecAccepted");
    return found?.status === "False" && found.reason === reason;
  };
  await kube.patch(resources.moeDeployments, ref, { spec: { podTemplate: { spec: { priorityClassName: "gold" } } } }, user);
  await until("the pod is refused", () => refusal("PodRefused"));
  assert.match(conditionOf(await status(kube), "SpecAccepted").message, /no PriorityClass with name gold/);
  await kube.patch(
    resources.moeDeployments,
    ref,
    { spec: { podTemplate: { spec: { priorityClassName: null, hostNetwork: true } } } },
    user,
  );
  await until("the field is refused", () => refusal("FieldNotSupported"));
  assert.deepEqual(
    pods(kube)
      .map((object) => object.metadata.uid)
      .sort(),
    uids,
  );
  await kube.patch(resources.moeDeployments, ref, { spec: { podTemplate: null } }, user);
  await until("all is well again", readyWith(kube, 3));
  assert.deepEqual(
    pods(kube)
      .map((object) => object.metadata.uid)
      .sort(),
    uids,
  );
  await stop();
});

test("a missing claim and an object that cannot be read are conditions, not crashes", { timeout: 30_000 }, async () => {
  const kube = await world();
  kube.remove(resources.persistentVolumeClaims, { namespace: "ns", name: "models" });
  await kube.create(
    resources.moeDeployments,
    { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { namespace: "ns", name: "odd" }, spec: { model: {} } },
    user,
  );
  const operator = await startOperator(kube);
  await until("the claim is missed", async () => conditionOf(await status(kube), "ModelAvailable")?.reason === "ClaimNotFound");
  await until(
    "the odd one is refused",
    async () =>
      conditionOf((await kube.get(resources.moeDeployments, { namespace: "ns", name: "odd" }))?.status, "SpecAccepted")?.reason ===
      "InvalidSpec",
  );
  await operator.stop();
});

test("a deleted deployment is forgotten, and one of the same name is another world with another CA", { timeout: 30_000 }, async () => {
  const { kube, operator, stop } = await serving();
  const trusted = async () => {
    const leaf: any = await kube.get(resources.secrets, { namespace: "ns", name: "moe-gateway-tls" });
    return leaf?.data["ca.crt"];
  };
  const ca = await trusted();
  const old = await kube.get(resources.moeDeployments, ref);
  kube.remove(resources.moeDeployments, ref);
  await kube.create(
    resources.moeDeployments,
    {
      apiVersion: "enodia.dev/v1alpha1",
      kind: "MoEDeployment",
      metadata: { ...ref },
      spec: { model: { uri: "pvc://models/moe" }, replicas: 2 },
    },
    user,
  );
  await until("2 ranks serve", readyWith(kube, 2));
  assert.deepEqual(operator.rebalance.forgotten, [old?.metadata.uid]);
  assert.notEqual(await trusted(), ca);
  await stop();
});

test("a pass reads the pods' cache once, and no pod, Job or deployment from the API server", { timeout: 30_000 }, async (t) => {
  const { kube, operator, stop } = await serving();
  t.after(stop);
  const related = t.mock.method(Informers.prototype, "related");
  const others = [t.mock.method(Informers.prototype, "ownedBy"), t.mock.method(Informers.prototype, "ofDeployment")];
  const asked: string[] = [];
  const [get, list] = [kube.get, kube.list];
  kube.get = (resource, at) => {
    asked.push(`get ${resource.plural}`);
    return get(resource, at);
  };
  kube.list = (resource, options) => {
    asked.push(`list ${resource.plural}`);
    return list(resource, options);
  };
  let passes = 0;
  const { update } = operator.rebalance;
  operator.rebalance.update = (world) => {
    passes++;
    update.call(operator.rebalance, world);
  };
  for (const maxContext of [64, 128]) {
    await kube.patch(resources.moeDeployments, ref, { spec: { runtime: { maxContext } } }, user);
    const done = passes;
    await until("it was looked at", () => passes > done);
  }
  await until("no pass is under way", () => related.mock.callCount() === passes);
  assert.deepEqual(
    others.flatMap(({ mock }) => mock.calls.filter(({ arguments: [name] }) => name === "pods")),
    [],
  );
  // Who applies objects and writes Secrets reads what is there, and the claim is read where the spec is new.
  const read = asked.filter((one) => /moedeployments|pods|jobs|controllerrevisions/.test(one));
  assert.deepEqual(read, []);
});
