// The objects that `kubectl delete --cascade=orphan` leaves, and a deployment of the same name after it: they are taken over, the old pods
// serve until the new ones do, and nothing of the old uid stays.

import assert from "node:assert/strict";
import { test } from "node:test";
import { labels } from "../../crds/common.ts";
import { workerProcess } from "../../crds/process.ts";
import { deployment } from "../../test/kit/deployment/deployment.ts";
import { conditionOf, pods, readyWith, ref, serving, startOperator, status, user } from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { kubeError } from "../kube/errors.ts";
import { type KubeObject, type Resource, resources } from "../kube/kube.ts";
import { objectLabels } from "./objects/context.ts";
import { orphansOf, ownPods } from "./observe/own-pods.ts";
import { nodesSeen } from "./observe/pod-facts.ts";

const namespace = "ns";
const kinds = Object.values<Resource>(resources).filter((one) => one !== resources.moeDeployments);
/** What is in the deployment's namespace. Events tell of the past. */
const objects = (kube: FakeKube): KubeObject[] =>
  kinds.flatMap((kind) => kube.all(kind)).filter((one) => one.metadata.namespace === namespace && one.kind !== "Event");
const ownedBy = (object: KubeObject, uid: string): boolean => object.metadata.ownerReferences?.some((one) => one.uid === uid) ?? false;
const entry = (kube: FakeKube, secret: string, name: string) =>
  (kube.all(resources.secrets) as any[]).find((one) => one.metadata.name === secret).data[name];

/** Plays the API server and the garbage collector: what the deployment owns loses the reference, then the deployment is gone. */
async function orphan({ kube, operator }: Pick<Awaited<ReturnType<typeof serving>>, "kube" | "operator">): Promise<string> {
  const { uid = "" } = (await kube.get(resources.moeDeployments, ref))?.metadata ?? {};
  kube.mutate(resources.moeDeployments, ref, ({ metadata }) => {
    Object.assign(metadata, { deletionTimestamp: new Date().toISOString(), finalizers: ["orphan"] });
  });
  await until("the operator has heard of it", () => operator.rebalance.forgotten.includes(uid));
  for (const kind of kinds) {
    for (const object of kube.all(kind).filter((one) => ownedBy(one, uid))) {
      kube.mutate(kind, { namespace, name: object.metadata.name }, (one) => {
        one.metadata.ownerReferences = undefined;
      });
    }
  }
  kube.remove(resources.moeDeployments, ref);
  return uid;
}

async function create(kube: FakeKube): Promise<string> {
  const spec = { model: { uri: "pvc://models/moe" }, replicas: 3, elasticity: { settle: "1ms" } };
  const made = { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { ...ref }, spec };
  return (await kube.create(resources.moeDeployments, made, user)).metadata.uid ?? "";
}

/** The pod that the gateway Deployment has made, which nobody plays in these tests. */
async function oldGateway(kube: FakeKube): Promise<{ namespace: string; name: string }> {
  const at = { namespace, name: "moe-gateway-abc" };
  const [{ spec }] = kube.all(resources.deployments) as any[];
  const { template } = spec;
  const owner = { apiVersion: "apps/v1", kind: "ReplicaSet", name: "moe-gateway", uid: "rs", controller: true };
  const metadata = { ...at, labels: template.metadata.labels, ownerReferences: [owner] };
  await kube.create(resources.pods, { apiVersion: "v1", kind: "Pod", metadata, spec: template.spec }, user);
  return at;
}

const uidsOf = (list: readonly KubeObject[]) => list.map((one) => one.metadata.uid).sort();

test("what orphaning left is taken over: the old pods serve until the new ones do, then nothing of the old uid stays", {
  timeout: 60_000,
}, async () => {
  const { kube, operator, stop } = await serving();
  const [ca, telemetry] = [entry(kube, "moe-gateway-tls", "ca.crt"), entry(kube, "moe-telemetry", "keys")];
  const front = await oldGateway(kube);
  const before = await orphan({ kube, operator });
  const old = uidsOf(pods(kube));
  assert.equal(old.length, 3);
  const services = uidsOf(kube.all(resources.services));
  const uid = await create(kube);
  const own = () => pods(kube).filter((pod) => ownedBy(pod, uid));
  const gateway = () => kube.all(resources.deployments)[0] as KubeObject;
  let tooEarly = "";
  kube.onWrite = (verb, { kind }, name) => {
    const ready = own().filter((pod) => pod.status?.conditions?.[0]?.status === "True").length;
    const ends =
      (verb === "delete" && kind === "Pod") || (verb === "apply" && name.startsWith("moe-gateway") && kind !== "PodDisruptionBudget");
    if (ends && ready < 3) tooEarly ||= `${verb} ${kind} ${name} with ${ready} ranks`;
  };
  await until("the gateways are rolled", () => ownedBy(gateway(), uid));
  assert.deepEqual(uidsOf(pods(kube).filter((pod) => !ownedBy(pod, uid))), old, "the old gateway still uses its ranks");
  await until("it is said", async () =>
    /3 worker pods and 1 gateway pod of a deleted/.test(conditionOf(await status(kube), "Progressing")?.message),
  );
  const { message } = conditionOf(await status(kube), "Progressing");
  assert.match(message, /kubectl -n ns delete pods moe-\d-\w+ moe-\d-\w+ moe-\d-\w+$/);
  kube.remove(resources.pods, front);
  await until("3 ranks serve alone", readyWith(kube, 3));
  assert.equal(tooEarly, "");
  assert.deepEqual(uidsOf(kube.all(resources.services)), services, "kept, with their addresses");
  const left = objects(kube).filter((one) => one.metadata.labels?.["enodia.dev/deployment"] === "moe" && one.kind !== "Pod");
  for (const one of left) {
    const podOwned = one.metadata.name.endsWith("-tls") && one.metadata.name !== "moe-gateway-tls";
    assert.ok(podOwned || ownedBy(one, uid), `${one.kind} ${one.metadata.name}`);
  }
  assert.doesNotMatch(JSON.stringify(objects(kube)), new RegExp(before));
  assert.notEqual(entry(kube, "moe-gateway-tls", "ca.crt"), ca, "whoever could read the namespace may have its key");
  assert.notEqual(entry(kube, "moe-telemetry", "keys"), telemetry);
  await until("it is over", async () => conditionOf(await status(kube), "Progressing")?.reason === "Converged");
  await stop();
});

test("where a quota has no room for both, old ranks give way one by one", { timeout: 60_000 }, async () => {
  const { kube, operator, stop } = await serving();
  const front = await oldGateway(kube);
  await orphan({ kube, operator });
  const quota = 4;
  kube.admit = (resource) => {
    const message = "pods is forbidden: exceeded quota: pods";
    if (resource.kind === "Pod" && pods(kube).length >= quota) throw kubeError(403, JSON.stringify({ message }), "creating");
  };
  const uid = await create(kube);
  let least = 3;
  const own = () => pods(kube).filter((pod) => ownedBy(pod, uid)).length;
  kube.onWrite = () => {
    least = Math.min(least, pods(kube).length);
  };
  await until("3 ranks are made", () => own() === 3);
  assert.ok(pods(kube).length > 3, "no more went than had to");
  assert.ok(least >= 3);
  kube.remove(resources.pods, front);
  await until("3 ranks serve alone", readyWith(kube, 3));
  await stop();
});

test("old ranks that serve nobody go at once, by whoever leads then", { timeout: 60_000 }, async () => {
  const { kube, operator, stop } = await serving();
  const before = await orphan({ kube, operator });
  await operator.stop();
  const uid = await create(kube);
  const second = await startOperator(kube);
  await until("3 ranks serve alone", readyWith(kube, 3));
  assert.ok(pods(kube).every((pod) => ownedBy(pod, uid)));
  assert.doesNotMatch(JSON.stringify(objects(kube)), new RegExp(before));
  await second.stop();
  await stop();
});

test("pods and objects of somebody else are not touched, whatever some of their labels say", { timeout: 60_000 }, async () => {
  const { kube, operator, stop } = await serving();
  await orphan({ kube, operator });
  const labels: Record<string, string> = { ...objectLabels("moe", "worker"), "enodia.dev/rank": "7" };
  const { "app.kubernetes.io/managed-by": _, ...unmanaged } = labels;
  const controller = { apiVersion: "batch/v1", kind: "Job", name: "job", uid: "job", controller: true };
  const { spec } = pods(kube)[0];
  const theirs: Record<string, object> = {
    "without-uid": { metadata: { labels }, spec: {} },
    unmanaged: { metadata: { labels: unmanaged }, spec },
    "of-a-job": { metadata: { labels, ownerReferences: [controller] }, spec },
    "of-another": { metadata: { labels: { ...labels, "enodia.dev/deployment": "other" } }, spec },
  };
  for (const [name, { metadata, ...pod }] of Object.entries(theirs) as [string, any][])
    await kube.create(resources.pods, { apiVersion: "v1", kind: "Pod", metadata: { namespace, name, ...metadata }, ...pod }, user);
  kube.mutate(resources.services, ref, ({ metadata }) => Object.assign(metadata, { ownerReferences: [controller] }));
  const service = await kube.get(resources.services, ref);
  await create(kube);
  const refused = async () => /Service moe exists and does not belong/.test(conditionOf(await status(kube), "SpecAccepted")?.message);
  await until("the Service is refused", refused);
  const names = () => pods(kube).map(({ metadata }) => metadata.name);
  await until("the orphans are gone", () => names().every((name) => theirs[name]));
  assert.deepEqual(names().sort(), Object.keys(theirs).sort());
  assert.deepEqual(await kube.get(resources.services, ref), service);
  await stop();
});

test("a gateway pod that has ended serves nobody, though its ReplicaSet keeps it for ever", () => {
  const gateway = (phase: string): KubeObject => ({
    ...{ apiVersion: "v1", kind: "Pod", status: { phase } },
    metadata: { namespace, name: `gateway-${phase}`, labels: { [labels.deployment]: ref.name, [labels.component]: "gateway" } },
    spec: { containers: [{ name: "gateway", env: [{ name: workerProcess.deploymentUid.variable, value: "old" }] }] },
  });
  const pods = [gateway("Failed"), gateway("Succeeded"), gateway("Running")];
  const { others } = ownPods({ informers: { related: () => pods }, overlay: { merge: () => [] } }, deployment());
  const nodes = nodesSeen({ seesNodes: false, get: () => undefined });
  assert.equal(orphansOf(others, ref.name, nodes, Date.now()).gateways, 1);
});
