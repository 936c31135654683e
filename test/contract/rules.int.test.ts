// Refusals of a real API server: every CEL rule of the CRDs with its message, and writes that rest on what is no longer so.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { AppError, apiVersion } from "../../crds/common.ts";
import { type Kube, type KubeObject, type Resource, resources } from "../../operator/kube/kube.ts";
import { down } from "../cluster/cluster.ts";
import { controlPlane } from "../integration/control-plane.ts";
import { celRules, merged, ruleCases, rulesOfCase, wellSpecs } from "./rules.ts";

const cluster = "rules-int";
const namespace = "rules";
const manager = { manager: "test" };
let kube: Kube;

before(
  async () => {
    ({ kube } = await controlPlane(cluster, 0));
    await kube.create(resources.namespaces, { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }, manager);
  },
  { timeout: 600_000 },
);
after(() => down(cluster));

const kinds: Readonly<Record<string, Resource>> = { MoEDeployment: resources.moeDeployments, MoETrainingJob: resources.moeTrainingJobs };
const rules = ["moedeployments", "moetrainingjobs"].flatMap(celRules);
let made = 0;

const object = (kind: string, name: string, ...patches: readonly object[]): KubeObject => {
  const spec = patches.reduce((so, patch) => merged(so, patch) as object, wellSpecs[kind] as object);
  return { apiVersion, kind, metadata: { name, namespace }, spec };
};

for (const kind of Object.keys(kinds))
  test(`the spec of a ${kind} that the cases begin with is taken`, async () => {
    await kube.create(kinds[kind] as Resource, object(kind, "well"), { ...manager, dryRun: true });
  });

for (const one of ruleCases) {
  const { kind, path, patch, before: earlier = {}, name = `c-${made++}` } = one;
  const rule = rulesOfCase(one, rules)[0];
  test(`${kind}${path}: ${rule?.message ?? "no such rule"}`, async () => {
    assert.ok(rule);
    const resource = kinds[kind] as Resource;
    const refused = (error: unknown): boolean => {
      assert.ok(error instanceof AppError && error.code === "Invalid" && error.retry === "never", String(error));
      assert.ok(error.message.includes(rule.message), error.message);
      if (rule.field !== "") assert.ok(error.message.includes(`${rule.field}: `), `${rule.field} is not named: ${error.message}`);
      return true;
    };
    if (!rule.rule.includes("oldSelf")) {
      await assert.rejects(kube.create(resource, object(kind, name, patch), { ...manager, dryRun: true }), refused);
      return;
    }
    await kube.create(resource, object(kind, name, earlier), manager);
    await assert.rejects(kube.patch(resource, { namespace, name }, { spec: patch }, { ...manager, dryRun: true }), refused);
  });
}

test("an update of what somebody else has changed meanwhile is a Conflict, of the object and of its status", async () => {
  const first = await kube.create(resources.moeDeployments, object("MoEDeployment", "versions"), manager);
  const second = await kube.update(resources.moeDeployments, { ...first, spec: { ...(first.spec as object), replicas: 3 } }, manager);
  const conflict = (error: unknown): boolean => error instanceof AppError && error.code === "Conflict";
  await assert.rejects(
    kube.update(resources.moeDeployments, { ...first, spec: { ...(first.spec as object), replicas: 4 } }, manager),
    conflict,
  );
  const counted = { ...second, status: { replicas: 3 } };
  const third = await kube.updateStatus(resources.moeDeployments, counted, manager);
  await assert.rejects(kube.updateStatus(resources.moeDeployments, counted, manager), conflict);
  assert.equal(third.metadata.generation, second.metadata.generation, "a status is no new generation");
  const ref = { namespace, name: "versions" };
  const stale = { metadata: { resourceVersion: first.metadata.resourceVersion }, spec: { replicas: 5 } };
  await assert.rejects(kube.patch(resources.moeDeployments, ref, stale, manager), conflict);
  const now: any = await kube.get(resources.moeDeployments, ref);
  assert.deepEqual([now.spec.replicas, now.status.replicas], [3, 3]);
});

test("of writers with one version exactly one wins, and the others are told", async () => {
  const made = await kube.create(resources.moeDeployments, object("MoEDeployment", "race"), manager);
  const write = (replicas: number) =>
    kube.update(resources.moeDeployments, { ...made, spec: { ...(made.spec as object), replicas } }, manager);
  const tries = await Promise.allSettled([3, 4, 5, 6].map(write));
  assert.deepEqual(
    tries.flatMap((one) => (one.status === "rejected" ? [one.reason.code] : [])),
    ["Conflict", "Conflict", "Conflict"],
  );
});
