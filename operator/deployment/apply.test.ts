// The apply takes this deployment's objects, never somebody else's.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { deployment, settings } from "../../test/builders/deployment.ts";
import { FakeKube } from "../../test/contract/fake-kube.ts";
import { type KubeObject, type OwnerReference, resources } from "../kube/kube.ts";
import { Applier } from "./apply.ts";
import { objectLabels, ownerOf } from "./objects/context.ts";
import { gatewayService } from "./objects/plumbing.ts";

const owner = { name: "moe", uid: "uid-moe" };
const at = { namespace: "ns", name: "moe" };
const context = { deployment: deployment(), settings };
const rendered = [{ resource: resources.services, object: gatewayService(context) }];
const fine = { refusals: [], failure: undefined };
const ours = ownerOf(context.deployment);
let kube: FakeKube;
beforeEach(() => {
  kube = new FakeKube();
});

/** The informers see nothing: the object has no label of ours, or the cache is behind. */
const applier = () => new Applier(kube, () => undefined);
const service = (ownerReferences?: OwnerReference[]): KubeObject => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { ...at, ...(ownerReferences ? { ownerReferences } : {}) },
  spec: { selector: { app: "chat" } },
});
const there = async () => (await kube.get(resources.services, at)) as any;

test("an object of somebody else with the same name is not touched, and said so", async () => {
  await kube.create(resources.services, service(), { manager: "user" });
  const before = await there();
  const [refusal] = (await applier().apply(rendered, owner)).refusals;
  assert.equal(refusal?.reason, "ObjectRefused");
  assert.equal(
    refusal?.message,
    "Service moe exists and does not belong to this MoEDeployment; delete or rename it, or give the MoEDeployment another name",
  );
  assert.deepEqual(await there(), before);
  kube.remove(resources.services, at);
  assert.deepEqual(await applier().apply(rendered, owner), fine);
  assert.deepEqual((await there()).metadata.ownerReferences, [ours]);
});

test("one that carries our labels and another owner is not touched either", async () => {
  const labelled = service([{ apiVersion: "apps/v1", kind: "Deployment", name: "moe", uid: "other" }]);
  await kube.create(resources.services, labelled, { manager: "user" });
  const [refusal] = (await new Applier(kube, () => labelled).apply(rendered, owner)).refusals;
  assert.match(refusal?.message ?? "", /does not belong/);
});

test("what a deleted deployment of the same name left is waited for", async () => {
  await kube.create(resources.services, service([{ ...ours, uid: "uid-before" }]), { manager: "user" });
  const applying = applier();
  const [refusal] = (await applying.apply(rendered, owner)).refusals;
  assert.match(refusal?.message ?? "", /Service moe belongs to a deleted MoEDeployment of this name and is being removed/);
  kube.remove(resources.services, at);
  assert.deepEqual(await applying.apply(rendered, owner), fine);
});

/** The deployment itself, of which an adoption makes sure. */
async function standing(more: object = {}): Promise<void> {
  const object = { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { ...at } };
  await kube.create(resources.moeDeployments, object, { manager: "user" });
  kube.mutate(resources.moeDeployments, at, (one) => Object.assign(one.metadata, { uid: owner.uid }, more));
}

test("what it left without an owner is taken over where our labels say that it is ours", async () => {
  await standing();
  const orphan = (labels: Record<string, string>) => ({ ...service(), metadata: { ...at, labels } });
  const { "app.kubernetes.io/managed-by": _, ...unmanaged } = objectLabels("moe", "gateway");
  for (const labels of [objectLabels("other", "gateway"), unmanaged]) {
    await kube.create(resources.services, orphan(labels), { manager: "user" });
    assert.match((await applier().apply(rendered, owner)).refusals[0]?.message ?? "", /does not belong/);
    kube.remove(resources.services, at);
  }
  const { metadata } = await kube.create(resources.services, orphan(objectLabels("moe", "gateway")), { manager: "user" });
  assert.deepEqual(await applier().apply(rendered, owner), fine);
  assert.deepEqual((await there()).metadata.ownerReferences, [ours]);
  assert.equal((await there()).metadata.uid, metadata.uid);
});

test("a deployment that is being deleted takes nothing back that the garbage collector has orphaned", async () => {
  await standing({ deletionTimestamp: "2026-03-01T00:00:00Z", finalizers: ["orphan"] });
  const orphan = { ...service(), metadata: { ...at, labels: objectLabels("moe", "gateway") } };
  await kube.create(resources.services, orphan, { manager: "user" });
  assert.equal((await applier().apply(rendered, owner)).refusals.length, 1);
  assert.equal((await there()).metadata.ownerReferences, undefined);
});

test("our own object is applied though the cache does not show it, and left alone once it is as wanted", async () => {
  await applier().apply(rendered, owner);
  kube.mutate(resources.services, at, (one) => Object.assign(one.spec.ports[0], { port: 1 }));
  assert.deepEqual(await applier().apply(rendered, owner), fine);
  assert.equal((await there()).spec.ports[0].port, 8000);

  const cached = await there();
  const applying = new Applier(kube, () => cached);
  await applying.apply(rendered, owner);
  const { writes } = kube;
  await applying.apply(rendered, owner);
  assert.equal(kube.writes, writes);
});

test("what is not wanted any more is deleted where it is ours, and nothing else", async () => {
  const absent = [{ resource: resources.services, name: at.name }];
  const removing = async (live: KubeObject | undefined) => {
    await new Applier(kube, () => live).remove(absent, { ...owner, namespace: at.namespace });
    return there();
  };
  await kube.create(resources.services, service(), { manager: "user" });
  assert.ok(await removing(await there()), "somebody else's");
  kube.remove(resources.services, at);
  assert.equal(await removing(undefined), undefined);
  await kube.create(resources.services, service([ours]), { manager: "user" });
  assert.equal(await removing(await there()), undefined);
});
