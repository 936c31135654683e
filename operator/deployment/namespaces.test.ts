// Namespaces that are watched by name do not depend on each other, and each has one install of the operator that works in it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { type MoeWorld, ref, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { Claims } from "../kube/claims.ts";
import { type ListOptions, type Resource, resources } from "../kube/kube.ts";

/** Lets the operator list and watch nothing of a sort, as when its Role went with the namespace. */
function forbid({ kube }: MoeWorld, of: (resource: Resource, options?: ListOptions) => boolean): () => void {
  const { list, watch } = kube;
  const check = (resource: Resource, options?: ListOptions) => {
    if (of(resource, options)) throw new AppError("forbidden", { code: "Forbidden", retry: "backoff" });
  };
  kube.list = async (resource, options) => {
    check(resource, options);
    return list(resource, options);
  };
  kube.watch = (resource, options) => {
    check(resource, options);
    return watch(resource, options);
  };
  kube.dropWatches();
  return () => Object.assign(kube, { list, watch });
}

const other = { namespace: "other", name: "small" };

test("a namespace that is forbidden from the start, or later, holds up no other and comes back by itself", async (t) => {
  const moe = await world(t);
  await moe.make("persistentVolumeClaims", "models", {}, other);
  await moe.create({ replicas: 1 }, other);
  const podsIn = ({ namespace }: typeof ref): any[] => moe.pods.filter(({ metadata }) => metadata.namespace === namespace);
  const lose = (at: typeof ref) => moe.kube.remove(resources.pods, { ...at, name: podsIn(at)[0].metadata.name });
  const forbidOther = () => forbid(moe, (_, options) => options?.namespace === other.namespace);
  let allow = forbidOther();
  await moe.start({ namespaces: [ref.namespace, other.namespace] });
  await until("the first namespace is served", () => podsIn(ref).length === 3);
  assert.equal(podsIn(other).length, 0);
  allow();
  await until("the second is served once it is allowed", () => podsIn(other).length === 1);
  allow = forbidOther();
  await sleep(1_500); // two failures, and so trouble
  lose(other);
  lose(ref);
  await until("the first is repaired", () => podsIn(ref).length === 3);
  assert.equal(podsIn(other).length, 0, "nothing is done on a copy that nobody follows");
  allow();
  await until("the second is repaired", () => podsIn(other).length === 1);
});

test("an object in a namespace whose owner has granted nothing names the command, until it is granted", async (t) => {
  const moe = await world(t);
  const allow = forbid(moe, (resource, options) => options?.namespace === ref.namespace && resource !== resources.moeDeployments);
  await moe.start({ namespaces: [ref.namespace], changed: { grantee: { role: "enodia-namespace", operator: "sys/enodia" } } });
  const command = /may not work in namespace ns \(.*forbidden\).*: enodia namespace grant ns --operator sys\/enodia$/;
  await moe.comes("SpecAccepted", "False", "NamespaceNotGranted", command);
  assert.equal(moe.pods.length, 0);
  const writes = moe.kube.writes;
  await sleep(2_500);
  assert.equal(moe.kube.writes, writes, "it is told once");
  allow();
  await moe.serves(3);
  await moe.check("SpecAccepted", "True");
});

test("without the right to read nodes ranks are made and replaced all the same, and none counts as lost for it", async (t) => {
  const moe = await world(t);
  forbid(moe, (resource) => resource === resources.nodes);
  await moe.start({ namespaces: [ref.namespace] });
  await moe.serves(3);
  const before = moe.rebalance.world?.workers.map(({ uid }) => uid);
  moe.kubelet.stop();
  const { name, uid } = moe.pods[0].metadata;
  await moe.kube.delete(resources.pods, { ...ref, name }, { uid });
  await until("an evicted rank is replaced", () => moe.pods.length === 4);
  assert.ok(moe.rebalance.world?.workers.every(({ lost, uid }) => !lost && before?.includes(uid)));
});

test("of two installs that watch one namespace the first works in it, and the other says so and touches nothing", async (t) => {
  const moe = await world(t);
  const claims = (install: string) => new Claims({ kube: moe.kube, install });
  const first = await moe.start({ claims: claims("a/enodia") });
  const second = await moe.operatorBeside({ claims: claims("b/enodia") });
  t.after(second.stop);
  await moe.serves(3);
  await until("the refused install to say so", () => moe.events("ClaimedByAnotherInstall").length > 0);
  const [holder, refused] = first.rebalance.world ? ["a/enodia", second] : ["b/enodia", first];
  const told = new RegExp(`another install of the operator, ${holder}, works in namespace ns: .*watchNamespaces`);
  assert.match(moe.events("ClaimedByAnotherInstall")[0].note, told);
  assert.equal(refused.rebalance.world, undefined, "it has no session with a worker");
});
