// Rolls on a real API server: what it refuses, and a roll whose pods crash, with the ends of pods written here as a kubelet would. The
// revisions, the status and the command line's changes are the API server's own.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { AppError } from "../../crds/common.ts";
import { down } from "../../test/cluster/cluster.ts";
import { controlPlane } from "../../test/integration/control-plane.ts";
import { startDeploymentPlane } from "../../test/integration/deployment-plane.ts";
import { crashing } from "../../test/kit/deployment/moe-world.ts";
import { until as poll } from "../../test/kit/processes/process.ts";
import { acts } from "../cli/commands/rollout.ts";
import { type Kube, refOf, resources } from "../kube/kube.ts";

const name = "rollout-int";
const namespace = "rolls";
const system = "rolls-system";
const manager = { manager: "test" };
const ref = { namespace, name: "moe" };
const bad = "enodia/runtime:bad";
let kube: Kube;
let stop = async (): Promise<void> => {};

before(
  async () => {
    ({ kube } = await controlPlane(name, 0));
    for (const one of [namespace, system])
      await kube.create(resources.namespaces, { apiVersion: "v1", kind: "Namespace", metadata: { name: one } }, manager);
  },
  { timeout: 600_000 },
);
after(async () => {
  await stop();
  await down(name);
});

const object = (more: object, of = ref) => ({
  ...{ apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: of },
  spec: { model: { uri: "pvc://models/x" }, replicas: 2, ...more },
});
const refused: Record<string, { strategy: object; want: RegExp }> = {
  "no budget at all, as a share": { strategy: { maxSurge: "0%" }, want: /maxUnavailable.*must not both be 0: no rank could be replaced/ },
  "a share above all ranks": { strategy: { maxSurge: "120%" }, want: /maxSurge.*(from 0% to 100%|should match)/ },
  "a strategy that there is not": {
    strategy: { type: "Recreate" },
    want: /type: Unsupported value: "Recreate".*"RollingUpdate", "OnDelete"/,
  },
  "no canaries": { strategy: { canary: { ranks: 0 } }, want: /canary\.ranks.*greater than or equal to 1/ },
  "a latency below the others'": {
    strategy: { canary: { analysis: { latencyPercent: 50 } } },
    want: /latencyPercent.*greater than or equal to 100/,
  },
  "a partition below none": { strategy: { partition: -1 }, want: /partition.*greater than or equal to 0/ },
};
for (const [sentence, { strategy, want }] of Object.entries(refused)) {
  test(`the server refuses ${sentence} and says what to do`, async () => {
    await assert.rejects(kube.create(resources.moeDeployments, object({ rolloutStrategy: strategy }), manager), (error: unknown) => {
      assert.ok(error instanceof AppError && error.code === "Invalid", String(error));
      assert.match(error.message, want);
      return true;
    });
  });
}

test("canaries that are asked for with nothing more have their defaults", async () => {
  const at = { namespace, name: "defaults" };
  const made: any = await kube.create(resources.moeDeployments, object({ suspend: true, rolloutStrategy: { canary: {} } }, at), manager);
  assert.deepEqual(made.spec.rolloutStrategy.canary, { ranks: 1, analysis: { bake: "5m", minRequests: 20 } });
  await kube.delete(resources.moeDeployments, at);
});

const workers = async (): Promise<any[]> =>
  (await kube.list(resources.pods, { namespace, labelSelector: "enodia.dev/deployment=moe,enodia.dev/component=worker" })).items;
const well = { phase: "Running", conditions: [{ type: "Ready", status: "True", lastTransitionTime: new Date().toISOString() }] };
const status = async (): Promise<any> => (await kube.get(resources.moeDeployments, ref))?.status ?? {};

/** Plays the kubelet once: pods of the bad image crash, and those that are told to go are gone. */
async function turn(): Promise<void> {
  for (const pod of await workers()) {
    if (pod.metadata.deletionTimestamp) await kube.delete(resources.pods, refOf(pod), { uid: pod.metadata.uid, graceSeconds: 0 });
    else if (pod.status.conditions === undefined || pod.status.phase === "Pending") {
      const image = pod.spec.containers[0].image;
      const container = { name: "runtime", image, imageID: "", ready: false, lastState: {} };
      const broken = { ...crashing, containerStatuses: crashing.containerStatuses.map((one) => ({ ...container, ...one })) };
      await kube.updateStatus(resources.pods, { ...pod, status: image === bad ? broken : well }, manager).catch(() => {});
    }
  }
}
const until = (what: string, holds: () => Promise<boolean>) =>
  poll(
    what,
    async () => {
      await turn();
      return (await holds()) || undefined;
    },
    { timeoutMs: 60_000, everyMs: 100 },
  );
const phase = (want: string) => async () => (await status()).rollout?.phase === want;
const rollout = (verb: keyof typeof acts) =>
  acts[verb]({ cluster: { kube, namespace }, name: "moe", watch: false, timeoutMs: 1, toRevision: undefined, print: () => {} });

test("a roll whose pods crash is rolled back, tried again by the command line, and undone", { timeout: 240_000 }, async () => {
  await kube.create(resources.moeDeployments, object({ elasticity: { settle: "1ms" } }), manager);
  stop = await startDeploymentPlane(kube, namespace, { system });
  await until("it is whole", phase("Complete"));
  const were = (await workers()).map(({ metadata }) => metadata.uid).sort();
  await kube.patch(resources.moeDeployments, ref, { spec: { runtimeImage: { image: bad } } }, manager);
  await until("it is rolled back", phase("RolledBack"));
  const first = (await status()).rollout.rolledBack;
  assert.deepEqual([first.reason, first.fromRevision, first.toRevision], ["Crashing", 2, 1]);
  await until("the operation has ended", async () => (await status()).operation === undefined);
  assert.deepEqual((await workers()).map(({ metadata }) => metadata.uid).sort(), were);

  await stop();
  stop = await startDeploymentPlane(kube, namespace, { system });
  await rollout("resume");
  await until("it is tried again and rolled back again", async () => {
    const { rollout: now } = await status();
    return now.phase === "RolledBack" && now.rolledBack.id !== first.id;
  });
  await rollout("undo");
  await until("the spec is what runs", async () => (await phase("Complete")()) && (await status()).operation === undefined);
  const { spec }: any = await kube.get(resources.moeDeployments, ref);
  assert.equal(spec.runtimeImage.image, undefined);
  assert.deepEqual((await workers()).map(({ metadata }) => metadata.uid).sort(), were, "no rank that served has gone for any of it");
  const { items } = await kube.list(resources.controllerRevisions, { namespace, labelSelector: "enodia.dev/deployment=moe" });
  assert.ok(items.length <= 5, `${items.length} revisions`);
});

test("pods wait for their Secrets by a gate, beside one of the template's, and without one where it names a node", {
  timeout: 120_000,
}, async () => {
  const podsOf = async (of: string): Promise<any[]> =>
    (await kube.list(resources.pods, { namespace, labelSelector: `enodia.dev/deployment=${of},enodia.dev/component=worker` })).items;
  const templates = { held: { schedulingGates: [{ name: "example.com/quota" }] }, bound: { nodeName: "node-a" } };
  for (const [of, spec] of Object.entries(templates))
    await kube.create(resources.moeDeployments, object({ podTemplate: { spec } }, { namespace, name: of }), manager);
  const settled = async (of: string, want: object | undefined) => {
    const pods = await podsOf(of);
    return pods.length === 2 && pods.every(({ spec }) => isDeepStrictEqual(spec.schedulingGates, want));
  };
  await until("our gates are open", async () => (await settled("held", templates.held.schedulingGates)) && settled("bound", undefined));
  for (const { metadata } of await podsOf("held"))
    assert.ok(await kube.get(resources.secrets, { namespace, name: `${metadata.name}-tls` }), metadata.name);
});
