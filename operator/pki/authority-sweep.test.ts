// The end of a CA: with its deployment, and never on hearsay.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { settings } from "../../test/kit/deployment/deployment.ts";
import { kubelet, readyWith, ref, startOperator, until, user, world } from "../../test/kit/deployment/deployment-plane.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { Informers } from "../kube/informers.ts";
import { type KubeObject, type Resource, resources } from "../kube/kube.ts";
import { authorityName } from "./authorities.ts";
import { sweepAuthorities } from "./authority-sweep.ts";

const owned = (kube: FakeKube, resource: Resource): string[] =>
  kube
    .all(resource)
    .filter(({ metadata }) => metadata.namespace === settings.namespace)
    .map(({ metadata }) => metadata.name);

/** A deployment that served until its operator went; `sweep` is an operator that comes later and knows what the API server tells it. */
async function deserted() {
  const kube = await world();
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  await operator.stop();
  life.stop();
  const { uid = "" } = (await kube.get(resources.moeDeployments, ref))?.metadata ?? {};
  const sweep = async (namespaces: readonly string[] = []): Promise<void> => {
    const informers = new Informers(namespaces, settings.namespace, { kube, random: () => 0 });
    informers.start();
    await informers.refresh();
    try {
      await sweepAuthorities({ kube, informers });
    } finally {
      await informers.stop();
    }
  };
  return { kube, sweep, ca: authorityName(ref, uid) };
}

test("a CA goes with its deployment, though no operator saw it go", async () => {
  const { kube, sweep, ca } = await deserted();
  await sweep();
  assert.deepEqual(owned(kube, resources.secrets), [ca]);
  kube.remove(resources.moeDeployments, ref);
  await sweep();
  assert.deepEqual(owned(kube, resources.secrets), []);
});

test("the CA of a deployment that cannot be seen stays: another's namespace, a forbidden one, an error, a copy that is behind", async () => {
  const { kube, sweep, ca } = await deserted();
  const deployment = (await kube.get(resources.moeDeployments, ref)) as KubeObject;
  kube.remove(resources.moeDeployments, ref);
  await sweep(["elsewhere"]);
  assert.deepEqual(owned(kube, resources.secrets), [ca], "it is not watched");
  const { list } = kube;
  const answers: Record<string, typeof list> = {
    "its namespace is forbidden": async (resource, options) => {
      if (options?.namespace === ref.namespace) throw new AppError("forbidden", { code: "Forbidden", retry: "never" });
      return list(resource, options);
    },
    "the question fails": async (resource, options) => {
      if (resource === resources.moeDeployments && options?.namespace === ref.namespace)
        throw new AppError("no such resource", { code: "NotFound", retry: "never" });
      return list(resource, options);
    },
    "it was made a moment ago": async (resource, options) => {
      const found = await list(resource, options);
      return resource === resources.moeDeployments && options?.namespace === ref.namespace ? { ...found, items: [deployment] } : found;
    },
  };
  for (const [what, answer] of Object.entries(answers)) {
    kube.list = answer;
    await sweep(what.includes("forbidden") ? [ref.namespace] : []).catch(() => {});
    assert.deepEqual(owned(kube, resources.secrets), [ca], what);
  }
  kube.list = list;
  await sweep([ref.namespace]);
  assert.deepEqual(owned(kube, resources.secrets), []);
});

test("what pods were left behind with still proves whose they were, and a namesake's pods keep no CA but their own", async () => {
  const { kube, sweep, ca } = await deserted();
  kube.collectsAtOnce = false;
  kube.remove(resources.moeDeployments, ref);
  await sweep();
  assert.deepEqual(owned(kube, resources.secrets), [ca]);
  kube.collect();
  const spec = { model: { uri: "pvc://models/moe" }, replicas: 1, elasticity: { settle: "1ms" } };
  await kube.create(
    resources.moeDeployments,
    { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { ...ref }, spec },
    user,
  );
  kube.collectsAtOnce = true;
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("the namesake serves", readyWith(kube, 1));
  await operator.stop();
  life.stop();
  assert.equal(owned(kube, resources.secrets).length, 2);
  await sweep();
  const { uid = "" } = (await kube.get(resources.moeDeployments, ref))?.metadata ?? {};
  assert.deepEqual(owned(kube, resources.secrets), [authorityName(ref, uid)]);
});

test("a Secret that is not for a deployment is nobody's to sweep", async () => {
  const kube = new FakeKube();
  const metadata = { namespace: settings.namespace, name: "mine", labels: { "enodia.dev/component": "authority" } };
  await kube.create(resources.secrets, { apiVersion: "v1", kind: "Secret", metadata }, user);
  const informers = new Informers([], settings.namespace, { kube, random: () => 0 });
  informers.start();
  await informers.refresh();
  await sweepAuthorities({ kube, informers });
  await informers.stop();
  assert.deepEqual(owned(kube, resources.secrets), ["mine"]);
});
