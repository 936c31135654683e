// The apply takes this deployment's objects, never somebody else's.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { deployment, settings } from "../../test/kit/deployment/deployment.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { objectLabels, ownerOf } from "../deployment/objects/context.ts";
import { appliedObjects } from "../deployment/objects/index.ts";
import { gatewayBudget, gatewayService } from "../deployment/objects/plumbing.ts";
import { certifiedDeployment } from "../pki/certified.ts";
import { Applier } from "./apply.ts";
import { type KubeObject, type OwnerReference, resources } from "./kube.ts";

const owner = { name: "moe", uid: "uid-moe" };
const at = { namespace: "ns", name: "moe" };
const context = { deployment: deployment(), settings };
const rendered = [{ resource: resources.services, object: gatewayService(context) }];
const fine = { refusals: [], conflicts: [], failure: undefined };
const ours = ownerOf(context.deployment);
let kube: FakeKube;
let clock = 0;
const now = (): number => clock;
beforeEach(() => {
  kube = new FakeKube();
  clock = 1_000_000;
});

/** The informers see nothing: the object has no label of ours, or the cache is behind. */
const applier = () => new Applier({ of: certifiedDeployment, kube, live: () => undefined, now });
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
  const [refusal] = (await new Applier({ of: certifiedDeployment, kube, live: () => labelled, now }).apply(rendered, owner)).refusals;
  assert.match(refusal?.message ?? "", /does not belong/);
});

test("what we have made and the informers have not heard of yet is not written again", async () => {
  let writes = 0;
  const apply: FakeKube["apply"] = (...args) => {
    writes += 1;
    return kube.apply(...args);
  };
  const behind = new Applier({
    of: certifiedDeployment,
    kube: Object.assign(Object.create(kube) as FakeKube, { apply }),
    live: () => undefined,
    now,
  });
  for (let pass = 0; pass < 3; pass++) assert.deepEqual(await behind.apply(rendered, owner), fine);
  assert.equal(writes, 1);
  await kube.patch(resources.services, at, { metadata: { labels: { theirs: "yes" } } }, { manager: "user" });
  assert.deepEqual(await behind.apply(rendered, owner), fine);
  assert.equal(writes, 2, "somebody has changed it");
});

test("a status that changes, as with every pod, is no reason to write; whatever else somebody changes is", async () => {
  const budgets = [{ resource: resources.podDisruptionBudgets, object: gatewayBudget(context) }];
  const ref = { namespace: "ns", name: gatewayBudget(context).metadata.name };
  const live = (): KubeObject | undefined => {
    const { managedFields: _, ...metadata } = kube.all(resources.podDisruptionBudgets)[0]?.metadata ?? { name: "" };
    return metadata.uid === undefined ? undefined : { ...kube.all(resources.podDisruptionBudgets)[0]!, metadata }; // as informers hold it
  };
  let writes = 0;
  const apply: FakeKube["apply"] = (...args) => {
    writes += 1;
    return kube.apply(...args);
  };
  const applying = new Applier({ of: certifiedDeployment, kube: Object.assign(Object.create(kube) as FakeKube, { apply }), live, now });
  const writesOfPass = async (): Promise<number> => {
    writes = 0;
    assert.deepEqual(await applying.apply(budgets, owner), fine);
    return writes;
  };
  assert.equal(await writesOfPass(), 1);
  for (const currentHealthy of [7, 8]) {
    await kube.updateStatus(resources.podDisruptionBudgets, { ...live()!, status: { currentHealthy } }, { manager: "controllers" });
    assert.equal(await writesOfPass(), 0);
  }
  await kube.patch(resources.podDisruptionBudgets, ref, { metadata: { labels: { tier: "front" } } }, { manager: "user" });
  assert.equal(await writesOfPass(), 1);
  assert.equal(await writesOfPass(), 0);
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
  kube.mutate(resources.services, at, (one) => Object.assign(one.spec.ports[0], { port: 1 }), { manager: "kubectl-edit" });
  assert.deepEqual(await applier().apply(rendered, owner), fine);
  assert.equal((await there()).spec.ports[0].port, 8000);

  const cached = await there();
  const applying = new Applier({ of: certifiedDeployment, kube, live: () => cached, now });
  await applying.apply(rendered, owner);
  const { writes } = kube;
  await applying.apply(rendered, owner);
  assert.equal(kube.writes, writes);
});

test("what another manages stays as it is, is said, and is tried again with back-off and only where something has changed", async () => {
  const applying = new Applier({ of: certifiedDeployment, kube, live: () => live, now });
  let live: KubeObject | undefined;
  const budget = { resource: resources.podDisruptionBudgets, object: gatewayBudget(context) };
  const both = [...rendered, budget];
  const round = async () => {
    live = undefined;
    const found = await there();
    live = found;
    return applying.apply([...rendered], owner);
  };
  await applying.apply(both, owner);
  const port = (value: number, manager: string) =>
    kube.mutate(resources.services, at, (one) => Object.assign(one.spec.ports[0], { port: value }), { manager });
  port(1, "other-team");
  const before = await there();
  const [text] = (await round()).conflicts;
  assert.match(text ?? "", /^Service moe stays as it is: \.spec\.ports is managed by other-team; have its manager leave the field alone/);
  assert.deepEqual(await there(), before);
  let tries = 0;
  kube.onWrite = () => {
    tries += 1;
  };
  const triesAfter = async (ms: number) => {
    clock += ms;
    tries = 0;
    assert.equal((await round()).conflicts.length, 1);
    return tries;
  };
  assert.equal(await triesAfter(3_600_000), 0, "nothing has changed");
  const touched = async (ms: number) => {
    port(((await there()).spec.ports[0].port % 9) + 1, "other-team");
    return triesAfter(ms);
  };
  assert.equal(await touched(0), 1, "it changed, long after the last try");
  for (const wait of [20_000, 40_000, 80_000, 120_000, 120_000]) {
    assert.equal(await touched(wait - 1), 0, `before ${wait} ms`);
    assert.equal(await triesAfter(1), 1, `after ${wait} ms`);
  }
  port(8000, "other-team");
  clock += 120_000;
  assert.deepEqual(await round(), fine, "it is as we want it, whoever wrote it");
  kube.remove(resources.podDisruptionBudgets, { namespace: "ns", name: "moe-gateway" });
  port(2, "other-team");
  live = undefined;
  const mixed = await new Applier({ of: certifiedDeployment, kube, live: () => undefined, now }).apply(both, owner);
  assert.equal(mixed.conflicts.length, 1);
  assert.ok(await kube.get(resources.podDisruptionBudgets, { namespace: "ns", name: "moe-gateway" }), "others have their turn");
});

test("what a hand has changed is put back with the rest, unless another manages some of it", async () => {
  await applier().apply(rendered, owner);
  const edit = (manager: string, change: (one: any) => void) => kube.mutate(resources.services, at, change, { manager });
  edit("other-team", (one) => Object.assign(one.spec.selector, { "enodia.dev/component": "other" }));
  edit("kubectl-edit", (one) => Object.assign(one.spec.ports[0], { port: 1 }));
  assert.match((await applier().apply(rendered, owner)).conflicts[0] ?? "", /managed by other-team/);
  assert.equal((await there()).spec.ports[0].port, 1);
  edit("kubectl-patch", (one) => Object.assign(one.spec.selector, { "enodia.dev/component": "mine" }));
  assert.deepEqual(await applier().apply(rendered, owner), fine);
  const { spec } = await there();
  assert.deepEqual([spec.ports[0].port, spec.selector["enodia.dev/component"]], [8000, "gateway"]);
});

test("an object that cannot be is refused, also where a field of it has to be taken first", async () => {
  await applier().apply(rendered, owner);
  kube.mutate(resources.services, at, (one) => Object.assign(one.spec.ports[0], { port: 1 }), { manager: "kubectl-edit" });
  const { apply } = kube;
  kube.apply = async (resource, object, options) => {
    if (options.force) throw new AppError("spec.ports: Invalid value", { code: "Invalid" });
    return apply(resource, object, options);
  };
  const { refusals, failure } = await applier().apply(rendered, owner);
  assert.match(refusals[0]?.message ?? "", /the API server refuses Service moe: spec\.ports: Invalid value/);
  assert.equal(failure, undefined);
});

test("the number of an autoscaler is left alone until no autoscaler has the Deployment as its target", async () => {
  const given = { deployment: deployment({ gateway: { replicas: 2 } }), settings };
  const gateways = appliedObjects(given).filter(({ resource }) => resource === resources.deployments);
  const front = { namespace: "ns", name: "moe-gateway" };
  let live: KubeObject | undefined;
  const applying = new Applier({ of: certifiedDeployment, kube, live: () => live, now });
  await applying.apply(gateways, owner);
  const { apiVersion, kind } = resources.horizontalPodAutoscalers;
  const spec = { scaleTargetRef: { kind: "Deployment", name: front.name } };
  await kube.create(
    resources.horizontalPodAutoscalers,
    { apiVersion, kind, metadata: { namespace: "ns", name: "theirs" }, spec },
    { manager: "user" },
  );
  const by = { manager: "kube-controller-manager", subresource: "scale" };
  kube.mutate(resources.deployments, front, (one) => Object.assign(one.spec, { replicas: 5 }), by);
  live = await kube.get(resources.deployments, front);
  assert.equal((await applying.apply(gateways, owner)).conflicts.length, 1);
  kube.remove(resources.horizontalPodAutoscalers, { namespace: "ns", name: "theirs" });
  clock += 10_000;
  assert.deepEqual(await applying.apply(gateways, owner), fine, "the Deployment itself has not changed");
  assert.equal(((await kube.get(resources.deployments, front)) as any).spec.replicas, 2);
});

test("a field is given up though controllers write to the object all the while", async () => {
  const objects = (replicas: number | undefined) =>
    appliedObjects({ deployment: deployment({ gateway: { replicas } }), settings }).filter(({ object }) => object.kind === "Deployment");
  const front = { namespace: "ns", name: "moe-gateway" };
  await applier().apply(objects(3), owner);
  let disturbances = 2;
  kube.onWrite = (verb) => {
    if (verb !== "patch" || disturbances-- <= 0) return;
    kube.mutate(resources.deployments, front, (one) => Object.assign(one, { status: { replicas: disturbances } }));
  };
  assert.deepEqual(await applier().apply(objects(undefined), owner), fine);
  const { spec, status } = (await kube.get(resources.deployments, front)) as any;
  assert.deepEqual([spec.replicas, status], [3, { replicas: 0 }]);
});

test("of two templates the one that is accepted begins with the number, and the refused one is sent once", async () => {
  const [front] = appliedObjects({ deployment: deployment(), settings, firstGateways: 2 }).filter(({ begins }) => begins !== undefined);
  assert.ok(front);
  const tried: unknown[] = [];
  const { apply } = kube;
  kube.apply = async (resource, object, options) => {
    tried.push((object.spec as any).template);
    if (tried.length === 1) throw new AppError("spec.template: Invalid value", { code: "Invalid" });
    return apply(resource, object, options);
  };
  const otherwise = structuredClone(front.object);
  Object.assign((otherwise.spec as any).template.metadata.labels, { before: "yes" });
  await applier().apply([{ ...front, otherwise }], owner);
  const { spec } = (await kube.get(resources.deployments, { namespace: "ns", name: "moe-gateway" })) as any;
  assert.deepEqual([spec.replicas, spec.template.metadata.labels.before, tried.length], [2, "yes", 2]);
});

test("what is not wanted any more is deleted where it is ours, and nothing else", async () => {
  const absent = [{ resource: resources.services, name: at.name }];
  const removing = async (live: KubeObject | undefined) => {
    await new Applier({ of: certifiedDeployment, kube, live: () => live, now }).remove(absent, { ...owner, namespace: at.namespace });
    return there();
  };
  await kube.create(resources.services, service(), { manager: "user" });
  assert.ok(await removing(await there()), "somebody else's");
  kube.remove(resources.services, at);
  assert.equal(await removing(undefined), undefined);
  await kube.create(resources.services, service([ours]), { manager: "user" });
  assert.equal(await removing(await there()), undefined);
});
