// The life of a deployment as the deployment plane makes it: start, scale, roll, suspend, lost nodes, refusals, deletion.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { conditionOf, serving, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { Informers } from "../kube/informers.ts";

test("a deployment becomes Ready, scales, rolls, suspends, and its objects are all there", async (t) => {
  const moe = await serving(t);
  assert.deepEqual(moe.ranks, [0, 1, 2]);
  for (const kind of ["serviceAccounts", "podDisruptionBudgets", "deployments", "services"] as const)
    assert.ok(moe.all(kind).length > 0, kind);
  const secrets = moe.all("secrets").map(({ metadata: { namespace, name } }) => `${namespace}/${name}`);
  assert.deepEqual(secrets.map((name) => name.replace(/-[a-z0-9]{5}-tls/, "-x-tls").replace(/\.[^.]*$/, ".uid")).sort(), [
    "enodia-system/enodia-ca.ns.moe.uid",
    ...["moe-0-x-tls", "moe-1-x-tls", "moe-2-x-tls", "moe-gateway-tls", "moe-telemetry"].map((name) => `ns/${name}`),
  ]);
  const { observedGeneration, selector, address } = await moe.status();
  assert.deepEqual([observedGeneration, address.url], [1, "http://moe.ns.svc:8000"]);
  assert.equal(selector, "enodia.dev/deployment=moe,enodia.dev/component=worker");

  await moe.change({ replicas: 2 });
  await moe.serves(2);
  const certificates = moe.all("secrets").filter(({ metadata }) => /-\d-/.test(metadata.name));
  assert.equal(certificates.length, 2, "certificates go with their pods");

  const before = moe.uids;
  await moe.change({ runtime: { maxContext: 64 } });
  await until("both are new", async () => (await moe.ready(2)) && moe.uids.every((uid) => !before.includes(uid)));

  await moe.change({ suspend: true });
  await until("all pods are gone", async () => moe.pods.length === 0 && (await moe.is("Ready", "Suspended")));
  await moe.change({ suspend: false });
  await moe.serves(2);
});

test("a steady deployment costs no writes", async (t) => {
  const moe = await serving(t);
  await sleep(100);
  const before = moe.kube.writes;
  for (let i = 0; i < 20; i++) {
    moe.wake();
    await sleep(5);
  }
  assert.equal(moe.kube.writes, before);
});

test("a rank on a node that does not answer is replaced while the old pod still shows", async (t) => {
  const moe = await serving(t);
  const { metadata: victim } = moe.podOf(1);
  moe.node("node-1", "Unknown");
  await until("a new pod has rank 1", () => ![undefined, victim.uid].includes(moe.podOf(1)?.metadata.uid));
  assert.equal(await moe.get("pods", victim.name), undefined);
  await moe.operator.plane.controller.stop();
  assert.ok(moe.events("NodeLost").length > 0);
});

test("ranks that serve on are left alone though their nodes do not answer, and lost with the nodes they are not reached on", async (t) => {
  const moe = await serving(t);
  const before = moe.uids;
  moe.rebalance.streamsOutliveNodes = true;
  for (const name of ["node-0", "node-1", "node-2"]) moe.node(name, "Unknown");
  await sleep(100);
  assert.deepEqual(moe.uids, before);
  moe.rebalance.streamsOutliveNodes = false;
  moe.wake();
  await sleep(100);
  assert.deepEqual(moe.uids, before, "all nodes at once are no failure of nodes");
});

test("what the API server or the operator refuses is said in SpecAccepted, and running pods are left alone", async (t) => {
  const moe = await serving(t);
  const { uids } = moe;
  moe.refuse((kind, { spec }: any) => kind === "Pod" && spec.priorityClassName && "no PriorityClass with name gold was found");
  await moe.change({ podTemplate: { spec: { priorityClassName: "gold" } } });
  await moe.comes("SpecAccepted", "False", "PodRefused", /no PriorityClass with name gold/);
  await moe.change({ podTemplate: { spec: { priorityClassName: null, hostNetwork: true } } });
  await moe.comes("SpecAccepted", "False", "FieldNotSupported");
  assert.deepEqual(moe.uids, uids);
  await moe.change({ podTemplate: null });
  await moe.serves(3);
  assert.deepEqual(moe.uids, uids);
});

test("a missing claim and an object that cannot be read are conditions, not crashes", async (t) => {
  const moe = await world(t);
  moe.remove("persistentVolumeClaims", "models");
  await moe.make("moeDeployments", "odd", { spec: { model: {} } });
  await moe.start();
  await moe.comes("ModelAvailable", "ClaimNotFound");
  const refusal = async () => conditionOf((await moe.get("moeDeployments", "odd")).status, "SpecAccepted")?.reason;
  await until("the odd one is refused", async () => (await refusal()) === "InvalidSpec");
});

test("a deleted deployment is forgotten, and one of the same name is another world with another CA", async (t) => {
  const moe = await serving(t);
  const trusted = async () => (await moe.get("secrets", "moe-gateway-tls"))?.data["ca.crt"];
  const [ca, old] = [await trusted(), await moe.get("moeDeployments")];
  moe.remove("moeDeployments");
  await moe.create({ replicas: 2 });
  await moe.serves(2);
  assert.deepEqual(moe.rebalance.forgotten, [old.metadata.uid]);
  assert.notEqual(await trusted(), ca);
});

test("a pass reads the pods' cache once, and no pod, Job or deployment from the API server", async (t) => {
  const moe = await serving(t);
  const related = t.mock.method(Informers.prototype, "related");
  const others = [t.mock.method(Informers.prototype, "ownedBy"), t.mock.method(Informers.prototype, "ofDeployment")];
  const reads = [t.mock.method(moe.kube, "get"), t.mock.method(moe.kube, "list")];
  const update = t.mock.method(moe.rebalance, "update");
  const passes = () => update.mock.callCount();
  for (const maxContext of [64, 128]) {
    await moe.change({ runtime: { maxContext } });
    const done = passes();
    await until("it was looked at", () => passes() > done);
  }
  await until("no pass is under way", () => related.mock.callCount() === passes());
  const scans = others.flatMap(({ mock }) => mock.calls.filter(({ arguments: [name] }) => name === "pods"));
  // Who applies objects and writes Secrets reads what is there, and the claim is read where the spec is new.
  const asked = reads.flatMap(({ mock }) => mock.calls.map(({ arguments: [{ plural }] }) => plural));
  const read = asked.filter((plural) => /moedeployments|pods|jobs|controllerrevisions/.test(plural));
  assert.deepEqual([scans, read], [[], []]);
});
