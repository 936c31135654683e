// Another model on a real API server, with its controllers of Deployments and its garbage collector: the Service leads to a green deployment and
// back, what the green deployment owned is gone afterwards, and a model that does not start is rolled back. Pods are played.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { down } from "../../test/cluster/cluster.ts";
import { controlPlane } from "../../test/integration/control-plane.ts";
import { startDeploymentPlane } from "../../test/integration/deployment-plane.ts";
import { view } from "../../test/kit/deployment/deployment.ts";
import { crashing } from "../../test/kit/deployment/moe-world.ts";
import { until as poll } from "../../test/kit/processes/process.ts";
import { type Kube, refOf, resources } from "../kube/kube.ts";
import type { World } from "./ports.ts";

const name = "standin-int";
const namespace = "models";
const system = "models-system";
const manager = { manager: "test" };
const ref = { namespace, name: "moe" };
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

async function startPlane(): Promise<void> {
  const worlds = new Map<string, World>();
  let changed = (_at: World["ref"]): void => {};
  stop = await startDeploymentPlane(kube, namespace, {
    system,
    rebalance: () => ({
      update: (world) => {
        const before = worlds.get(world.uid)?.leaving.length ?? 0;
        worlds.set(world.uid, world);
        if (world.leaving.length !== before) setImmediate(() => changed(world.ref));
      },
      // Ranks that are to stop have nothing to hand over.
      view: (uid) => view({ drains: (worlds.get(uid)?.leaving ?? []).map((one) => ({ ...one, phase: "Drained", message: "" })) }),
      forget: (uid) => void worlds.delete(uid),
      onChange: (listener) => {
        changed = listener;
      },
      close: async () => {},
    }),
  });
}

const list = async (resource: (typeof resources)["pods"]): Promise<any[]> => (await kube.list(resource, { namespace })).items;
const status = async (): Promise<any> => (await kube.get(resources.moeDeployments, ref))?.status ?? {};
const modelOf = (pod: any): string => pod.spec.containers[0].env.find((one: any) => one.name === "ENODIA_MODEL_PATH")?.value ?? "";
const ranks = async () => (await list(resources.pods)).filter(({ metadata: { labels } }) => labels["enodia.dev/component"] === "worker");
const own = async () => (await ranks()).filter(({ metadata: { labels } }) => labels["enodia.dev/deployment"] === "moe");
const leadsTo = async (): Promise<string> =>
  ((await kube.get(resources.services, ref)) as any)?.spec.selector["enodia.dev/deployment"] ?? "";

/** Plays the kubelet once: pods of the bad model crash, and those that are told to go are gone. */
async function turn(): Promise<void> {
  for (const pod of await list(resources.pods)) {
    if (pod.metadata.deletionTimestamp) await kube.delete(resources.pods, refOf(pod), { uid: pod.metadata.uid, graceSeconds: 0 });
    else if (pod.status.conditions === undefined || pod.status.phase === "Pending") {
      const [{ name: container, image }] = pod.spec.containers;
      const broken = crashing.containerStatuses.map((one) => ({ name: container, image, imageID: "", ready: false, ...one }));
      const ready = { type: "Ready", status: "True", lastTransitionTime: new Date().toISOString() };
      const well = { phase: "Running", conditions: [ready] };
      const bad = modelOf(pod) === "/models/bad";
      await kube
        .updateStatus(resources.pods, { ...pod, status: bad ? { ...crashing, containerStatuses: broken } : well }, manager)
        .catch(() => {});
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
    { timeoutMs: 120_000, everyMs: 100 },
  );
const atRest = async (phase: string): Promise<boolean> => {
  const { rollout, operation, gateway } = await status();
  const alone = (await list(resources.moeDeployments)).length === 1;
  return rollout?.phase === phase && operation === undefined && alone && gateway?.readyReplicas === 1;
};

test("another model is served by a green deployment, and nothing of it is left", { timeout: 300_000 }, async () => {
  const spec = { model: { uri: "pvc://models/x" }, replicas: 2, elasticity: { settle: "1ms" } };
  const object = { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: ref, spec };
  await kube.create(resources.moeDeployments, object, manager);
  await startPlane();
  await until("it is whole", () => atRest("Complete"));
  await kube.patch(resources.moeDeployments, ref, { spec: { model: { uri: "pvc://models/y" } } }, manager);
  await until("the Service leads to the green deployment", async () => (await leadsTo()) !== "moe");
  const child = await leadsTo();
  assert.deepEqual(new Set((await own()).map(modelOf)), new Set(["/models/x"]), "the ranks serve on");
  await stop();
  await startPlane();
  await until("the ranks have the new model", async () => {
    const models = (await own()).map(modelOf);
    assert.ok(new Set(models).size <= 1, "never two models in one world");
    return models.length === 2 && models.every((model) => model === "/models/y");
  });
  await until("all is over", async () => (await atRest("Complete")) && (await leadsTo()) === "moe");
  const { history } = await status();
  assert.deepEqual([history[0].type, history[0].result], ["Roll", "Done"]);
  const owned = [
    resources.pods,
    resources.services,
    resources.deployments,
    resources.configMaps,
  ] as unknown as (typeof resources)["pods"][];
  await until("the garbage collector has taken the rest", async () => {
    const left = (await Promise.all(owned.map(list)))
      .flat()
      .filter(({ metadata: { labels = {} } }) => labels["enodia.dev/deployment"] === child);
    return left.length === 0;
  });
});

test("a model whose ranks crash is rolled back, and no rank that serves has gone for it", { timeout: 300_000 }, async () => {
  const uids = async () => (await own()).map(({ metadata }) => metadata.uid).sort();
  const were = await uids();
  await kube.patch(resources.moeDeployments, ref, { spec: { model: { uri: "pvc://models/bad" } } }, manager);
  await until("it is rolled back", () => atRest("RolledBack"));
  const { rollout, conditions } = await status();
  assert.deepEqual([rollout.rolledBack.reason, rollout.rolledBack.fromRevision], ["Crashing", 0]);
  assert.match(
    conditions.find((one: any) => one.type === "SpecAccepted").message,
    /a green deployment tried, was rolled back.*has crashed 3 times/,
  );
  assert.deepEqual([await uids(), await leadsTo()], [were, "moe"]);
});
