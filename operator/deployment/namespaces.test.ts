// Namespaces that are watched by name do not depend on each other, and each has one install of the operator that works in it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { kubelet, pods, readyWith, ref, startOperator, user, world } from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { Claims } from "../kube/claims.ts";
import { type KubeObject, resources } from "../kube/kube.ts";

/** Lets the operator list and watch nothing in a namespace, as when its Role went with the namespace. */
function forbid(kube: FakeKube, namespace: string): () => void {
  const { list, watch } = kube;
  const refusal = () => new AppError(`forbidden in ${namespace}`, { code: "Forbidden", retry: "backoff" });
  kube.list = async (resource, options) => {
    if (options?.namespace === namespace) throw refusal();
    return list(resource, options);
  };
  kube.watch = (resource, options) => {
    if (options.namespace === namespace) throw refusal();
    return watch(resource, options);
  };
  kube.dropWatches();
  return () => Object.assign(kube, { list, watch });
}

const other = { namespace: "other", name: "small" };
const podsIn = (kube: FakeKube, namespace: string): KubeObject[] => pods(kube).filter(({ metadata }) => metadata.namespace === namespace);

async function createOther(kube: FakeKube): Promise<void> {
  const claim = { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { namespace: other.namespace, name: "models" } };
  await kube.create(resources.persistentVolumeClaims, claim, user);
  const spec = { model: { uri: "pvc://models/moe" }, replicas: 1, elasticity: { settle: "1ms" } };
  await kube.create(
    resources.moeDeployments,
    { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { ...other }, spec },
    user,
  );
}

test("a namespace that is forbidden from the start, or later, holds up no other and comes back by itself", {
  timeout: 60_000,
}, async () => {
  const kube = await world();
  await createOther(kube);
  const life = kubelet(kube);
  let allow = forbid(kube, other.namespace);
  const operator = await startOperator(kube, { namespaces: [ref.namespace, other.namespace] });
  try {
    await until("the first namespace is served", () => podsIn(kube, ref.namespace).length === 3);
    assert.equal(podsIn(kube, other.namespace).length, 0);
    allow();
    await until("the second is served once it is allowed", () => podsIn(kube, other.namespace).length === 1);
    allow = forbid(kube, other.namespace);
    await sleep(1_500); // two failures, and so trouble
    const [lost] = podsIn(kube, other.namespace);
    kube.remove(resources.pods, { namespace: other.namespace, name: lost?.metadata.name ?? "" });
    const [mine] = podsIn(kube, ref.namespace);
    kube.remove(resources.pods, { namespace: ref.namespace, name: mine?.metadata.name ?? "" });
    await until("the first is repaired", () => podsIn(kube, ref.namespace).length === 3);
    assert.equal(podsIn(kube, other.namespace).length, 0, "nothing is done on a copy that nobody follows");
    allow();
    await until("the second is repaired", () => podsIn(kube, other.namespace).length === 1);
  } finally {
    life.stop();
    await operator.stop();
  }
});

test("without the right to read nodes ranks are made and replaced all the same, and none counts as lost for it", {
  timeout: 60_000,
}, async () => {
  const kube = await world();
  const { list, watch } = kube;
  const refusal = () => new AppError("nodes is forbidden", { code: "Forbidden", retry: "backoff" });
  kube.list = async (resource, options) => (resource === resources.nodes ? Promise.reject(refusal()) : list(resource, options));
  kube.watch = (resource, options) => {
    if (resource === resources.nodes) throw refusal();
    return watch(resource, options);
  };
  const life = kubelet(kube);
  const operator = await startOperator(kube, { namespaces: [ref.namespace] });
  try {
    await until("3 ranks serve", readyWith(kube, 3));
    const before = operator.rebalance.world?.workers.map(({ uid }) => uid);
    life.stop();
    const [victim] = podsIn(kube, ref.namespace);
    await kube.delete(resources.pods, { namespace: ref.namespace, name: victim?.metadata.name ?? "" }, { uid: victim?.metadata.uid ?? "" });
    await until("an evicted rank is replaced", () => podsIn(kube, ref.namespace).length === 4);
    assert.ok(operator.rebalance.world?.workers.every(({ lost, uid }) => !lost && before?.includes(uid)));
  } finally {
    life.stop();
    await operator.stop();
  }
});

test("of two installs that watch one namespace the first works in it, and the other says so and touches nothing", {
  timeout: 60_000,
}, async () => {
  const kube = await world();
  const life = kubelet(kube);
  const first = await startOperator(kube, { claims: new Claims({ kube, install: "a/enodia" }) });
  const second = await startOperator(kube, { claims: new Claims({ kube, install: "b/enodia" }) });
  try {
    await until("3 ranks serve", readyWith(kube, 3));
    const told = () => kube.all(resources.events).find((event) => event.reason === "ClaimedByAnotherInstall");
    await until("the refused install to say so", () => told() !== undefined);
    const [worker, refused] = [first, second].toSorted((a) => (a.rebalance.world ? -1 : 1));
    const holder = worker === first ? "a/enodia" : "b/enodia";
    assert.match(String(told()?.note), new RegExp(`another install of the operator, ${holder}, works in namespace ns: .*watchNamespaces`));
    assert.equal(refused?.rebalance.world, undefined, "it has no session with a worker");
    assert.deepEqual(life.problems, []);
  } finally {
    life.stop();
    await Promise.all([first.stop(), second.stop()]);
  }
});
