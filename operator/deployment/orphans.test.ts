// The objects that `kubectl delete --cascade=orphan` leaves, and a deployment of the same name after it: they are taken over, the old pods
// serve until the new ones do, and nothing of the old uid stays.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { labels } from "../../crds/common.ts";
import { workerProcess } from "../../crds/process.ts";
import { deployment } from "../../test/kit/deployment/deployment.ts";
import { type MoeWorld, ref, serving } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { kubeError } from "../kube/errors.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
import { objectLabels } from "./objects/context.ts";
import { orphansOf, ownPods } from "./observe/own-pods.ts";
import { nodesSeen } from "./observe/pod-facts.ts";

const namespace = "ns";
const front = "moe-gateway-abc";
const kinds = (Object.keys(resources) as (keyof typeof resources)[]).filter((one) => one !== "moeDeployments");
/** What is in the deployment's namespace. Events tell of the past. */
const objects = (moe: MoeWorld): KubeObject[] =>
  kinds.flatMap((kind) => moe.all(kind)).filter((one) => one.metadata.namespace === namespace && one.kind !== "Event");
const ownedBy = (object: KubeObject, uid: string): boolean => object.metadata.ownerReferences?.some((one) => one.uid === uid) ?? false;
const created = async (moe: MoeWorld): Promise<string> => (await moe.create()).metadata.uid ?? "";

/** The pod that the gateway Deployment has made, which nobody plays in these tests. */
async function gatewayPod(moe: MoeWorld, name: string): Promise<void> {
  const { metadata, spec } = moe.all("deployments")[0].spec.template;
  const owner = { apiVersion: "apps/v1", kind: "ReplicaSet", name: "moe-gateway", uid: "rs", controller: true };
  await moe.make("pods", name, { metadata: { labels: metadata.labels, ownerReferences: [owner] }, spec });
}

/**
 * A deployment that served, with this gateway pod if any, and was deleted. The API server and the garbage collector are played: what it
 * owned lost the reference.
 */
async function orphaned(t: TestContext, gateway?: string) {
  const moe = await serving(t);
  if (gateway) await gatewayPod(moe, gateway);
  const secrets = async () => [
    (await moe.get("secrets", "moe-gateway-tls")).data["ca.crt"],
    (await moe.get("secrets", "moe-telemetry")).data.keys,
  ];
  const [keys, { uid }] = [await secrets(), (await moe.get("moeDeployments")).metadata];
  moe.mutate("moeDeployments", "moe", ({ metadata }) =>
    Object.assign(metadata, { deletionTimestamp: new Date().toISOString(), finalizers: ["orphan"] }),
  );
  await until("the operator has heard of it", () => moe.rebalance.forgotten.includes(uid));
  for (const kind of kinds)
    for (const { metadata } of moe.all(kind).filter((one) => ownedBy(one, uid)))
      moe.mutate(kind, metadata.name, (one) => {
        one.metadata.ownerReferences = undefined;
      });
  moe.remove("moeDeployments");
  return { moe, uid, keys, secrets };
}

const uidsOf = (list: readonly KubeObject[]) => list.map((one) => one.metadata.uid).sort();

test("what orphaning left is taken over: the old pods serve until the new ones do, then nothing of the old uid stays", async (t) => {
  const { moe, uid: before, keys, secrets } = await orphaned(t, front);
  const [old, services] = [moe.uids, uidsOf(moe.all("services"))];
  assert.equal(old.length, 3);
  const uid = await created(moe);
  let tooEarly = "";
  moe.kube.onWrite = (verb, { kind }, name) => {
    const ready = moe.pods.filter((pod) => ownedBy(pod, uid) && pod.status?.conditions?.[0]?.status === "True").length;
    const ends =
      (verb === "delete" && kind === "Pod") || (verb === "apply" && name.startsWith("moe-gateway") && kind !== "PodDisruptionBudget");
    if (ends && ready < 3) tooEarly ||= `${verb} ${kind} ${name} with ${ready} ranks`;
  };
  await until("the gateways are rolled", () => ownedBy(moe.all("deployments")[0], uid));
  assert.deepEqual(uidsOf(moe.pods.filter((pod) => !ownedBy(pod, uid))), old, "the old gateway still uses its ranks");
  const remedy = /kubectl -n ns delete pods moe-\d-\w+ moe-\d-\w+ moe-\d-\w+$/;
  await moe.comes("Progressing", /3 worker pods and 1 gateway pod of a deleted/, remedy);
  moe.remove("pods", front);
  await moe.serves(3);
  assert.equal(tooEarly, "");
  assert.deepEqual(uidsOf(moe.all("services")), services, "kept, with their addresses");
  const left = objects(moe).filter((one) => one.metadata.labels?.["enodia.dev/deployment"] === "moe" && one.kind !== "Pod");
  for (const one of left) {
    const podOwned = one.metadata.name.endsWith("-tls") && one.metadata.name !== "moe-gateway-tls";
    assert.ok(podOwned || ownedBy(one, uid), `${one.kind} ${one.metadata.name}`);
  }
  assert.doesNotMatch(JSON.stringify(objects(moe)), new RegExp(before));
  const [ca, telemetry] = await secrets();
  assert.ok(ca !== keys[0] && telemetry !== keys[1], "whoever could read the namespace may have its keys");
  await moe.comes("Progressing", "Converged");
});

test("where a quota has no room for both, old ranks give way one by one", async (t) => {
  const { moe } = await orphaned(t, front);
  const quota = 4;
  moe.kube.admit = ({ kind }) => {
    const message = "pods is forbidden: exceeded quota: pods";
    if (kind === "Pod" && moe.pods.length >= quota) throw kubeError(403, JSON.stringify({ message }), "creating");
  };
  const uid = await created(moe);
  let least = 3;
  moe.kube.onWrite = () => {
    least = Math.min(least, moe.pods.length);
  };
  await until("3 ranks are made", () => moe.pods.filter((pod) => ownedBy(pod, uid)).length === 3);
  assert.ok(moe.pods.length > 3, "no more went than had to");
  assert.ok(least >= 3);
  moe.remove("pods", front);
  await moe.serves(3);
});

test("old ranks that serve nobody go at once, by whoever leads then", async (t) => {
  const { moe, uid: before } = await orphaned(t);
  await moe.stop();
  const uid = await created(moe);
  await moe.start();
  await moe.serves(3);
  assert.ok(moe.pods.every((pod) => ownedBy(pod, uid)));
  assert.doesNotMatch(JSON.stringify(objects(moe)), new RegExp(before));
});

test("pods and objects of somebody else are not touched, whatever some of their labels say", async (t) => {
  const { moe } = await orphaned(t);
  const labels: Record<string, string> = { ...objectLabels("moe", "worker"), "enodia.dev/rank": "7" };
  const { "app.kubernetes.io/managed-by": _, ...unmanaged } = labels;
  const controller = { apiVersion: "batch/v1", kind: "Job", name: "job", uid: "job", controller: true };
  const { spec } = moe.pods[0];
  const theirs: Record<string, object> = {
    "without-uid": { metadata: { labels }, spec: {} },
    unmanaged: { metadata: { labels: unmanaged }, spec },
    "of-a-job": { metadata: { labels, ownerReferences: [controller] }, spec },
    "of-another": { metadata: { labels: { ...labels, "enodia.dev/deployment": "other" } }, spec },
  };
  for (const [name, pod] of Object.entries(theirs)) await moe.make("pods", name, { ...pod });
  moe.mutate("services", "moe", ({ metadata }) => Object.assign(metadata, { ownerReferences: [controller] }));
  const service = await moe.get("services");
  await created(moe);
  await moe.comes("SpecAccepted", /Service moe exists and does not belong/);
  const names = () => moe.pods.map(({ metadata }) => metadata.name);
  await until("the orphans are gone", () => names().every((name) => theirs[name]));
  assert.deepEqual(names().sort(), Object.keys(theirs).sort());
  assert.deepEqual(await moe.get("services"), service);
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
