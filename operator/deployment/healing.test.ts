// A bad field costs nothing but itself: lost ranks come back from the last accepted template, also under a new leader, and the status
// says what is refused and what cannot be made.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import {
  conditionOf,
  kubelet,
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
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { kubeError } from "../kube/errors.ts";
import { type KubeObject, type Resource, resources } from "../kube/kube.ts";
import { revisionsMax } from "./state/accepted-specs.ts";

const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const condition = async (kube: FakeKube, type: string) => conditionOf(await status(kube), type);
const accepted = (kube: FakeKube, want: "True" | "False" | "Unknown") => async () =>
  (await condition(kube, "SpecAccepted"))?.status === want;
const refused = (kube: FakeKube, says: RegExp) => async () => {
  const found = await condition(kube, "SpecAccepted");
  return found?.status === "False" && says.test(found.message);
};
const uids = (kube: FakeKube): string[] =>
  pods(kube)
    .map((object) => object.metadata.uid)
    .sort();
const revisions = (kube: FakeKube) => kube.all(resources.controllerRevisions);
const hashes = (kube: FakeKube) => new Set(pods(kube).map((object) => object.metadata.annotations["enodia.dev/template-hash"]));
const serve = async (kube: FakeKube, count: number) => (await status(kube)).availableReplicas === count && pods(kube).length === count;

/** Takes the pod of a rank away, as a person or a broken node does. */
function lose(kube: FakeKube, rank: number): void {
  const found = pods(kube).find((object) => object.metadata.labels["enodia.dev/rank"] === String(rank));
  kube.remove(resources.pods, { namespace: "ns", name: found.metadata.name });
}

/** Refuses pods with a priorityClassName, and Deployments with an unknown field in the way that server-side apply does. */
function schemas(kube: FakeKube): void {
  kube.admit = (resource: Resource, object: KubeObject) => {
    const name = object.metadata.name;
    if (resource.kind === "Pod" && (object.spec as any).priorityClassName)
      throw kubeError(
        422,
        JSON.stringify({ message: `Pod "${name}" is invalid: spec.priorityClassName: Invalid value: "a b"` }),
        "creating",
      );
  };
  const apply = kube.apply;
  kube.apply = async (resource, object, options) => {
    if (resource.kind === "Deployment" && (object.spec as any).template.spec.containers[0].foo !== undefined) {
      const field = '.spec.template.spec.containers[name="gateway"].foo: field not declared in schema';
      const message = `failed to create typed patch object (ns/moe-gateway; apps/v1, Kind=Deployment): ${field}`;
      throw kubeError(500, JSON.stringify({ message }), "applying");
    }
    return apply(resource, object, options);
  };
}
const badWorker = { podTemplate: { spec: { priorityClassName: "a b" } } };
const badGateway = { gateway: { podTemplate: { spec: { containers: [{ name: "gateway", foo: 1 }] } } } };

for (const [what, { spec, says, repair }] of Object.entries({
  "the workers' template": {
    spec: badWorker,
    says: /spec\.podTemplate\.spec\.priorityClassName: Invalid value.*; correct spec\.podTemplate; meanwhile the spec of generation 1/,
    repair: { podTemplate: null },
  },
  "the gateways' template": {
    spec: badGateway,
    says: /spec\.gateway\.podTemplate\.spec\.containers.*foo: field not declared in schema; correct spec\.gateway\.podTemplate/,
    repair: { gateway: { podTemplate: null } },
  },
})) {
  test(`a bad field in ${what}: lost ranks come back as they were, and its repair changes no pod`, { timeout: 60_000 }, async () => {
    const { kube, stop } = await serving();
    schemas(kube);
    const hash = hashes(kube);
    await change(kube, spec);
    await until("it is refused", refused(kube, says));
    lose(kube, 1);
    await until("3 ranks serve", () => serve(kube, 3));
    assert.deepEqual(ranks(kube), [0, 1, 2]);
    assert.deepEqual(hashes(kube), hash);
    assert.equal((await condition(kube, "Degraded")).status, "False");
    assert.equal((await condition(kube, "Available")).status, "True");
    const before = uids(kube);
    await change(kube, repair);
    await until("all is well again", readyWith(kube, 3));
    assert.deepEqual(uids(kube), before);
    await stop();
  });
}

test("a new leader knows the last accepted template", { timeout: 60_000 }, async () => {
  const { kube, life, operator } = await serving();
  schemas(kube);
  const hash = hashes(kube);
  await change(kube, { ...badWorker, runtime: { maxContext: 64 } });
  await until("it is refused", accepted(kube, "False"));
  await operator.stop();
  for (const rank of [0, 1, 2]) lose(kube, rank);
  const next = await startOperator(kube);
  await until("3 ranks serve", () => serve(kube, 3));
  assert.deepEqual(hashes(kube), hash);
  life.stop();
  await next.stop();
});

test("a spec that was never accepted makes no pod, and says so until it is repaired", { timeout: 60_000 }, async () => {
  const kube = await world();
  schemas(kube);
  await change(kube, badWorker);
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("it is refused", refused(kube, /priorityClassName.*no spec was accepted before, so no pod is made/));
  await until("it is degraded", async () => (await condition(kube, "Degraded"))?.reason === "ReplacementImpossible");
  assert.match((await condition(kube, "Degraded")).message, /ranks 0, 1, 2 have no pod and none can be made: .*priorityClassName/);
  assert.deepEqual([pods(kube), revisions(kube)], [[], []]);
  await change(kube, { podTemplate: null });
  await until("3 ranks serve", readyWith(kube, 3));
  assert.equal((await condition(kube, "Degraded")).status, "False");
  life.stop();
  await operator.stop();
});

test("a pass that fails in the spec still replaces and writes the status", { timeout: 60_000 }, async () => {
  const { kube, stop } = await serving();
  const apply = kube.apply;
  kube.apply = async (resource, object, options) => {
    if (resource.kind !== "Service" || object.metadata.name !== "moe") return apply(resource, object, options);
    throw new AppError("Internal error occurred: failed calling webhook", { code: "Unavailable", retry: "backoff" });
  };
  await change(kube, { service: { port: 8001 } });
  await until("it is said", async () => /failed calling webhook/.test((await condition(kube, "SpecAccepted"))?.message ?? ""));
  assert.equal((await condition(kube, "SpecAccepted")).status, "Unknown");
  lose(kube, 2);
  await until("3 ranks serve", () => serve(kube, 3));
  assert.equal((await status(kube)).observedGeneration, 2);
  await change(kube, { replicas: 4, elasticity: { settle: "100ms" } });
  await until("4 ranks serve", () => serve(kube, 4), 10_000);
  kube.apply = apply;
  await until("it is accepted", accepted(kube, "True"));
  await stop();
});

test("a roll stops without a loss when the API server no longer takes the pods", { timeout: 60_000 }, async () => {
  const { kube, operator, stop } = await serving();
  operator.rebalance.drain = "Draining";
  await change(kube, { runtime: { maxContext: 64 } });
  await until("a rank is being emptied", () => pods(kube).some((object) => object.metadata.annotations["enodia.dev/leaving"] === "Roll"));
  const before = uids(kube);
  kube.admit = (resource) => {
    if (resource.kind === "Pod") throw new AppError("pods are forbidden: policy", { code: "Forbidden", retry: "backoff" });
  };
  await change(kube, { podTemplate: { metadata: { labels: { a: "b" } } } });
  await until("it is refused", refused(kube, /policy/));
  operator.rebalance.drain = "Drained";
  operator.plane.controller.queue.add("ns/moe");
  // The one that was made for the roll serves: with it there is one too many, and no more than that goes.
  await until("3 ranks serve", () => serve(kube, 3));
  await sleep(50);
  assert.equal(uids(kube).length, 3);
  assert.ok(uids(kube).every((uid) => before.includes(uid)));
  kube.admit = () => {};
  await stop();
});

test("a replacement that is refused is said in Degraded", { timeout: 60_000 }, async () => {
  const { kube, stop } = await serving();
  kube.admit = (resource) => {
    if (resource.kind === "Pod") throw new AppError("pods are forbidden: policy", { code: "Forbidden", retry: "backoff" });
  };
  lose(kube, 1);
  await until("it is degraded", async () => (await condition(kube, "Degraded"))?.reason === "ReplacementImpossible");
  assert.match((await condition(kube, "Degraded")).message, /ranks 1 have no pod and none can be made: rank 1: .*policy/);
  kube.admit = () => {};
  await until("3 ranks serve", readyWith(kube, 3));
  await stop();
});

test("replicas and suspend are obeyed while another field is refused, by the gateways too", { timeout: 60_000 }, async () => {
  const { kube, stop } = await serving();
  schemas(kube);
  const gateways = () => (kube.all(resources.deployments) as any[])[0].spec.replicas;
  await change(kube, { ...badWorker, ...badGateway });
  await until("it is refused", accepted(kube, "False"));
  await change(kube, { replicas: 4 });
  await until("4 ranks serve", () => serve(kube, 4));
  await change(kube, { replicas: 2, gateway: { ...badGateway.gateway, replicas: 3 } });
  await until("2 ranks serve", async () => (await serve(kube, 2)) && gateways() === 3);
  await change(kube, { suspend: true });
  await until("all is gone", () => pods(kube).length === 0 && gateways() === 0);
  await stop();
});

test("an object that cannot be read is served on by the last accepted spec", { timeout: 60_000 }, async () => {
  const { kube, stop } = await serving();
  const before = hashes(kube);
  await change(kube, { runtime: { kvPool: "9000Pi" } });
  await until("the field is named", refused(kube, /kvPool.*the spec of generation 1 stays in effect/s));
  lose(kube, 0);
  await until("3 ranks serve", () => serve(kube, 3));
  assert.deepEqual(hashes(kube), before);
  await change(kube, { replicas: 2 });
  await until("2 ranks serve", () => serve(kube, 2));
  await stop();
});

/** Number and maxContext of the revisions that are kept, newest first. */
const kept = (kube: FakeKube): [number, number][] =>
  revisions(kube)
    .map((one): [number, number] => {
      const { spec } = JSON.parse(Buffer.from((one.data as any).json, "base64").toString());
      return [Number(one.revision), spec.runtime.maxContext];
    })
    .sort(([a], [b]) => b - a);

test("a spec that is accepted again gets a new revision in place of its old one, and a deleted one is written again", {
  timeout: 60_000,
}, async () => {
  const { kube, operator, stop } = await serving();
  for (const maxContext of [64, 128, 64]) {
    await change(kube, { runtime: { maxContext } });
    await until("it is accepted", () => kept(kube)[0]?.[1] === maxContext);
  }
  await until("3 ranks serve", readyWith(kube, 3));
  await until("the older one goes", () => kept(kube).length === 3);
  assert.deepEqual(kept(kube), [
    [4, 64],
    [3, 128],
    [1, 4096],
  ]);
  const { writes } = kube;
  await change(kube, { replicas: 3, suspend: false });
  schemas(kube);
  await change(kube, badWorker);
  await until("it is refused", accepted(kube, "False"));
  const stored = revisions(kube).find((one) => one.revision === 4);
  assert.ok(stored && kube.writes > writes);
  kube.remove(resources.controllerRevisions, { namespace: "ns", name: stored.metadata.name });
  await sleep(20);
  operator.plane.controller.queue.add("ns/moe");
  await until("it is written again", () => kept(kube)[0]?.[1] === 64);
  const again = revisions(kube).find((one) => Number(one.revision) === kept(kube)[0]?.[0]);
  assert.deepEqual(again?.metadata.ownerReferences, stored.metadata.ownerReferences);
  await stop();
});

test("no more revisions are kept than the bound says, and the last whole one is among them", { timeout: 60_000 }, async () => {
  const { kube, life, stop } = await serving();
  life.stop(); // no other pod becomes Ready: the first template stays the last whole one
  for (const maxContext of [64, 128, 256, 512, 1024, 2048, 8192]) {
    await change(kube, { runtime: { maxContext } });
    await until("it is accepted", () => kept(kube)[0]?.[1] === maxContext);
  }
  await until("the older ones go", () => kept(kube).length <= revisionsMax);
  assert.deepEqual(
    kept(kube).map(([, context]) => context),
    [8192, 2048, 1024, 512, 4096],
  );
  await stop();
});
