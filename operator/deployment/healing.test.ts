// A bad field costs nothing but itself: lost ranks come back from the last accepted template, also under a new leader, and the status
// says what is refused and what cannot be made.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { type MoeWorld, serving, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { kubeError } from "../kube/errors.ts";
import { revisionsMax } from "./state/accepted-specs.ts";

const hashes = (moe: MoeWorld) => new Set(moe.pods.map(({ metadata }) => metadata.annotations["enodia.dev/template-hash"]));
const counted = (moe: MoeWorld, ranks: number) => until(`${ranks} ranks serve`, () => moe.counts(ranks));

/** Refuses pods with a priorityClassName, and Deployments with an unknown field in the way that server-side apply does. */
function schemas({ kube }: MoeWorld): void {
  kube.admit = (resource, { metadata: { name }, spec }: any) => {
    const message = `Pod "${name}" is invalid: spec.priorityClassName: Invalid value: "a b"`;
    if (resource.kind === "Pod" && spec.priorityClassName) throw kubeError(422, JSON.stringify({ message }), "creating");
  };
  const { apply } = kube;
  kube.apply = async (resource, object, options) => {
    if (resource.kind !== "Deployment" || (object.spec as any).template.spec.containers[0].foo === undefined)
      return apply(resource, object, options);
    const field = '.spec.template.spec.containers[name="gateway"].foo: field not declared in schema';
    const message = `failed to create typed patch object (ns/moe-gateway; apps/v1, Kind=Deployment): ${field}`;
    throw kubeError(500, JSON.stringify({ message }), "applying");
  };
}
const badWorker = { podTemplate: { spec: { priorityClassName: "a b" } } };
const badGateway = { gateway: { podTemplate: { spec: { containers: [{ name: "gateway", foo: 1 }] } } } };

const badFields: Record<string, [spec: object, says: RegExp, repair: object]> = {
  "the workers' template": [
    badWorker,
    /spec\.podTemplate\.spec\.priorityClassName: Invalid value.*; correct spec\.podTemplate; meanwhile the spec of generation 1/,
    { podTemplate: null },
  ],
  "the gateways' template": [
    badGateway,
    /spec\.gateway\.podTemplate\.spec\.containers.*foo: field not declared in schema; correct spec\.gateway\.podTemplate/,
    { gateway: { podTemplate: null } },
  ],
};
for (const [what, [spec, says, repair]] of Object.entries(badFields))
  test(`a bad field in ${what}: lost ranks come back as they were, and its repair changes no pod`, async (t) => {
    const moe = await serving(t);
    schemas(moe);
    const hash = hashes(moe);
    await moe.change(spec);
    await moe.comes("SpecAccepted", "False", says);
    moe.lose(1);
    await counted(moe, 3);
    assert.deepEqual([moe.ranks, hashes(moe)], [[0, 1, 2], hash]);
    await moe.check("Degraded", "False");
    await moe.check("Available", "True");
    const before = moe.uids;
    await moe.change(repair);
    await moe.serves(3);
    assert.deepEqual(moe.uids, before);
  });

test("a new leader knows the last accepted template", async (t) => {
  const moe = await serving(t);
  schemas(moe);
  const hash = hashes(moe);
  await moe.change({ ...badWorker, runtime: { maxContext: 64 } });
  await moe.comes("SpecAccepted", "False");
  await moe.stop();
  for (const rank of [0, 1, 2]) moe.lose(rank);
  await moe.start();
  await counted(moe, 3);
  assert.deepEqual(hashes(moe), hash);
});

test("a spec that was never accepted makes no pod, and says so until it is repaired", async (t) => {
  const moe = await world(t, badWorker);
  schemas(moe);
  await moe.start();
  await moe.comes("SpecAccepted", "False", /priorityClassName.*no spec was accepted before, so no pod is made/);
  await moe.comes("Degraded", "ReplacementImpossible", /ranks 0, 1, 2 have no pod and none can be made: .*priorityClassName/);
  assert.deepEqual([moe.pods, moe.all("controllerRevisions")], [[], []]);
  await moe.change({ podTemplate: null });
  await moe.serves(3);
  await moe.check("Degraded", "False");
});

test("a pass that fails in the spec still replaces and writes the status", async (t) => {
  const moe = await serving(t);
  const { apply } = moe.kube;
  moe.kube.apply = async (resource, object, options) => {
    if (resource.kind !== "Service" || object.metadata.name !== "moe") return apply(resource, object, options);
    throw new AppError("Internal error occurred: failed calling webhook", { code: "Unavailable", retry: "backoff" });
  };
  await moe.change({ service: { port: 8001 } });
  await moe.comes("SpecAccepted", /failed calling webhook/);
  await moe.check("SpecAccepted", "Unknown");
  moe.lose(2);
  await counted(moe, 3);
  assert.equal((await moe.status()).observedGeneration, 2);
  await moe.change({ replicas: 4, elasticity: { settle: "100ms" } });
  await until("4 ranks serve", () => moe.counts(4), 10_000);
  moe.kube.apply = apply;
  await moe.comes("SpecAccepted", "True");
});

const noPods = (kind: string) => kind === "Pod" && "pods are forbidden: policy";

test("a roll stops without a loss when the API server no longer takes the pods", async (t) => {
  const moe = await serving(t);
  moe.rebalance.drain = "Draining";
  await moe.change({ runtime: { maxContext: 64 } });
  await until("a rank is being emptied", () => moe.pods.some(({ metadata }) => metadata.annotations["enodia.dev/leaving"] === "Roll"));
  const before = moe.uids;
  moe.refuse(noPods);
  await moe.change({ podTemplate: { metadata: { labels: { a: "b" } } } });
  await moe.comes("SpecAccepted", "False", /policy/);
  moe.rebalance.drain = "Drained";
  moe.wake();
  // The one that was made for the roll serves: with it there is one too many, and no more than that goes.
  await counted(moe, 3);
  await sleep(50);
  assert.equal(moe.uids.length, 3);
  assert.ok(moe.uids.every((uid) => before.includes(uid)));
});

test("a replacement that is refused is said in Degraded", async (t) => {
  const moe = await serving(t);
  moe.refuse(noPods);
  moe.lose(1);
  await moe.comes("Degraded", "ReplacementImpossible", /ranks 1 have no pod and none can be made: rank 1: .*policy/);
  moe.refuse(() => false);
  await moe.serves(3);
});

test("replicas and suspend are obeyed while another field is refused, by the gateways too", async (t) => {
  const moe = await serving(t);
  schemas(moe);
  const gateways = () => moe.all("deployments")[0].spec.replicas;
  await moe.change({ ...badWorker, ...badGateway });
  await moe.comes("SpecAccepted", "False");
  await moe.change({ replicas: 4 });
  await counted(moe, 4);
  await moe.change({ replicas: 2, gateway: { ...badGateway.gateway, replicas: 3 } });
  await until("2 ranks serve", async () => (await moe.counts(2)) && gateways() === 3);
  await moe.change({ suspend: true });
  await until("all is gone", () => moe.pods.length === 0 && gateways() === 0);
});

test("an object that cannot be read is served on by the last accepted spec", async (t) => {
  const moe = await serving(t);
  const before = hashes(moe);
  await moe.change({ runtime: { kvPool: "9000Pi" } });
  await moe.comes("SpecAccepted", "False", /kvPool.*the spec of generation 1 stays in effect/s);
  moe.lose(0);
  await counted(moe, 3);
  assert.deepEqual(hashes(moe), before);
  await moe.change({ replicas: 2 });
  await counted(moe, 2);
});

/** Number and maxContext of the revisions that are kept, newest first. */
const kept = (moe: MoeWorld): [number, number][] =>
  moe
    .all("controllerRevisions")
    .map(({ revision, data }): [number, number] => [
      Number(revision),
      JSON.parse(Buffer.from(data.json, "base64").toString()).spec.runtime.maxContext,
    ])
    .sort(([a], [b]) => b - a);

async function contexts(moe: MoeWorld, ...each: number[]): Promise<void> {
  for (const maxContext of each) {
    await moe.change({ runtime: { maxContext } });
    await until("it is accepted", () => kept(moe)[0]?.[1] === maxContext);
  }
}

test("a spec that is accepted again gets a new revision in place of its old one, and a deleted one is written again", async (t) => {
  const moe = await serving(t);
  await contexts(moe, 64, 128, 64);
  await moe.serves(3);
  await until("the older one goes", () => kept(moe).length === 3);
  assert.deepEqual(kept(moe).flat(), [4, 64, 3, 128, 1, 4096]);
  const { writes } = moe.kube;
  await moe.change({ replicas: 3, suspend: false });
  schemas(moe);
  await moe.change(badWorker);
  await moe.comes("SpecAccepted", "False");
  const numbered = (number: number | undefined) => moe.all("controllerRevisions").find(({ revision }) => Number(revision) === number);
  const stored = numbered(4);
  assert.ok(stored && moe.kube.writes > writes);
  moe.remove("controllerRevisions", stored.metadata.name);
  await sleep(20);
  moe.wake();
  await until("it is written again", () => kept(moe)[0]?.[1] === 64);
  assert.deepEqual(numbered(kept(moe)[0]?.[0])?.metadata.ownerReferences, stored.metadata.ownerReferences);
});

test("no more revisions are kept than the bound says, and the last whole one is among them", async (t) => {
  const moe = await serving(t);
  moe.kubelet.stop(); // no other pod becomes Ready: the first template stays the last whole one
  await contexts(moe, 64, 128, 256, 512, 1024, 2048, 8192);
  await until("the older ones go", () => kept(moe).length <= revisionsMax);
  assert.deepEqual(
    kept(moe).map(([, context]) => context),
    [8192, 2048, 1024, 512, 4096],
  );
});
