// The deployment plane on the in-memory API with a kubelet and a rebalance plane played by the test. The operator is killed
// before each single write in turn; a new one must lead the world to the same end, with no rank ever held twice.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { settings, view } from "../../test/builders/deployment.ts";
import { FakeKube } from "../../test/contract/fake-kube.ts";
import { EventRecorder } from "../kube/events.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
import { createDeploymentPlane, type DeploymentPlane } from "./controller.ts";
import type { DrainPhase, MemberView, RebalanceView } from "./core/world.ts";
import { Informers } from "./informers.ts";
import type { Rebalance, World } from "./ports.ts";

const ref = { namespace: "ns", name: "moe" };
const user = { manager: "user" };

/** Serves every ready pod, empties every leaving one. */
class TestRebalance implements Rebalance {
  world: World | undefined;
  drain: DrainPhase = "Drained";
  forgotten: string[] = [];
  #listener: (at: typeof ref) => void = () => {};
  update(world: World): void {
    const changed =
      JSON.stringify(world.leaving) !== JSON.stringify(this.world?.leaving) ||
      JSON.stringify(world.workers) !== JSON.stringify(this.world?.workers);
    this.world = world;
    if (changed) setImmediate(() => this.#listener(ref));
  }
  view(): RebalanceView | undefined {
    if (!this.world) return undefined;
    const members = this.world.workers
      .filter((worker) => worker.ready && !worker.lost)
      .map(
        (worker): MemberView => ({
          rank: worker.rank,
          podUid: worker.uid,
          bootId: "b",
          active: true,
          ready: true,
          notReadyReason: "",
          draining: false,
          activeRequests: 0,
          epoch: 1,
          hostedBytes: 0,
          budgetBytes: 0,
          denseBytes: 0,
          kvBytes: 0,
          uniqueBytes: 0,
        }),
      );
    const drains = this.world.leaving.map((leaving) => ({ rank: leaving.rank, podUid: leaving.podUid, phase: this.drain, message: "" }));
    return view({ members, drains });
  }
  forget(uid: string): void {
    this.forgotten.push(uid);
  }
  onChange(listener: (at: typeof ref) => void): void {
    this.#listener = listener;
  }
  async close(): Promise<void> {}
}

interface Operator {
  readonly plane: DeploymentPlane;
  readonly rebalance: TestRebalance;
  stop(): Promise<void>;
}

async function startOperator(kube: FakeKube): Promise<Operator> {
  const informers = new Informers([], { kube, random: () => 0 });
  const events = new EventRecorder({ kube, reportingInstance: "test" });
  const plane = createDeploymentPlane({ kube, informers, events, settings });
  const rebalance = new TestRebalance();
  informers.start();
  while (!informers.hasSynced) await sleep(1);
  plane.connect(rebalance);
  plane.controller.start();
  return {
    plane,
    rebalance,
    stop: async () => {
      await plane.controller.stop();
      await informers.stop();
    },
  };
}

/** Binds pods, makes them Ready, lets gracefully deleted ones go, and watches that no rank is held twice. */
function kubelet(kube: FakeKube): { problems: string[]; stop: () => void } {
  const problems: string[] = [];
  const turn = () => {
    const holders = new Map<string, string>();
    for (const object of kube.all(resources.pods) as any[]) {
      const at = { namespace: object.metadata.namespace, name: object.metadata.name };
      const rank = object.metadata.labels["enodia.dev/rank"];
      const node = object.spec.nodeName;
      const lost =
        node !== undefined &&
        (kube.all(resources.nodes) as any[]).find((one) => one.metadata.name === node)?.status.conditions[0].status === "Unknown";
      if (!lost) {
        if (holders.has(rank)) problems.push(`rank ${rank}: ${holders.get(rank)} and ${at.name}`);
        holders.set(rank, at.name);
      }
      if (lost) continue;
      if (object.metadata.deletionTimestamp !== undefined) kube.remove(resources.pods, at);
      else if (node === undefined) kube.mutate(resources.pods, at, (pod) => Object.assign(pod.spec, { nodeName: `node-${rank}` }));
      else if (object.status === undefined && kube.all(resources.secrets).some((secret) => secret.metadata.name === `${at.name}-tls`)) {
        kube.mutate(resources.pods, at, (pod) =>
          Object.assign(pod, { status: { phase: "Running", podIP: "10.0.0.1", conditions: [{ type: "Ready", status: "True" }] } }),
        );
      }
    }
    for (const object of kube.all(resources.deployments) as any[]) {
      if (object.status?.readyReplicas !== object.spec.replicas) {
        kube.mutate(resources.deployments, { namespace: object.metadata.namespace, name: object.metadata.name }, (one) =>
          Object.assign(one, { status: { readyReplicas: one.spec.replicas, updatedReplicas: one.spec.replicas } }),
        );
      }
    }
  };
  const timer = setInterval(turn, 2);
  return { problems, stop: () => clearInterval(timer) };
}

function node(name: string, ready: "True" | "Unknown"): KubeObject {
  return { apiVersion: "v1", kind: "Node", metadata: { name }, status: { conditions: [{ type: "Ready", status: ready }] } };
}

async function world(): Promise<FakeKube> {
  const kube = new FakeKube();
  for (let i = 0; i < 4; i++) {
    await kube.create(resources.nodes, node(`node-${i}`, "True"), user);
    kube.mutate(resources.nodes, { namespace: "", name: `node-${i}` }, (one) =>
      Object.assign(one, { status: { conditions: [{ type: "Ready", status: "True" }] } }),
    );
  }
  await kube.create(
    resources.persistentVolumeClaims,
    { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { ...ref, name: "models" } },
    user,
  );
  await kube.create(
    resources.moeDeployments,
    {
      apiVersion: "enodia.dev/v1alpha1",
      kind: "MoEDeployment",
      metadata: { ...ref },
      spec: { model: { uri: "pvc://models/moe" }, replicas: 3, elasticity: { settle: "1ms" } },
    },
    user,
  );
  return kube;
}

const pods = (kube: FakeKube): any[] =>
  kube.all(resources.pods).filter((object) => object.metadata.labels?.["enodia.dev/component"] === "worker");
const ranks = (kube: FakeKube) =>
  pods(kube)
    .map((object) => Number(object.metadata.labels["enodia.dev/rank"]))
    .sort();
const status = async (kube: FakeKube): Promise<any> => (await kube.get(resources.moeDeployments, ref))?.status ?? {};
const conditionOf = (from: any, type: string) => from.conditions?.find((one: any) => one.type === type);

async function until(what: string, holds: () => boolean | Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`timed out waiting until ${what}`);
    await sleep(3);
  }
}
const readyWith = (kube: FakeKube, want: number) => async () => {
  const now = await status(kube);
  return conditionOf(now, "Ready")?.status === "True" && now.availableReplicas === want && pods(kube).length === want;
};

test("a deployment becomes Ready, scales, rolls, suspends, and its objects are all there", { timeout: 30_000 }, async () => {
  const kube = await world();
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  assert.deepEqual(ranks(kube), [0, 1, 2]);
  for (const resource of [resources.serviceAccounts, resources.podDisruptionBudgets, resources.deployments, resources.services])
    assert.ok(kube.all(resource).length > 0, resource.plural);
  assert.deepEqual(
    kube
      .all(resources.secrets)
      .map((secret) => secret.metadata.name.replace(/-[a-z0-9]{5}-tls/, "-x-tls"))
      .sort(),
    ["moe-0-x-tls", "moe-1-x-tls", "moe-2-x-tls", "moe-ca", "moe-gateway-tls"],
  );
  const { observedGeneration, selector, address } = await status(kube);
  assert.deepEqual(
    [observedGeneration, selector, address.url],
    [1, "enodia.dev/deployment=moe,enodia.dev/component=worker", "http://moe.ns.svc:8000"],
  );

  await kube.patch(resources.moeDeployments, ref, { spec: { replicas: 2 } }, user);
  await until("2 ranks serve", readyWith(kube, 2));
  assert.equal(
    kube.all(resources.secrets).filter((secret) => /-\d-/.test(secret.metadata.name)).length,
    2,
    "certificates go with their pods",
  );

  const before = pods(kube).map((object) => object.metadata.uid);
  await kube.patch(resources.moeDeployments, ref, { spec: { runtime: { maxContext: 64 } } }, user);
  await until(
    "both are new",
    async () => (await readyWith(kube, 2)()) && pods(kube).every((object) => !before.includes(object.metadata.uid)),
  );

  await kube.patch(resources.moeDeployments, ref, { spec: { suspend: true } }, user);
  await until("all pods are gone", async () => pods(kube).length === 0 && conditionOf(await status(kube), "Ready")?.reason === "Suspended");
  await kube.patch(resources.moeDeployments, ref, { spec: { suspend: false } }, user);
  await until("it is back", readyWith(kube, 2));
  life.stop();
  await operator.stop();
  assert.deepEqual(life.problems, []);
});

test("a steady deployment costs no writes", { timeout: 30_000 }, async () => {
  const kube = await world();
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  await sleep(100);
  const before = kube.writes;
  for (let i = 0; i < 20; i++) {
    operator.plane.controller.queue.add("ns/moe");
    await sleep(5);
  }
  assert.equal(kube.writes, before);
  life.stop();
  await operator.stop();
});

test("a rank on a node that does not answer is replaced while the old pod still shows", { timeout: 30_000 }, async () => {
  const kube = await world();
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  const victim = pods(kube).find((object) => object.metadata.labels["enodia.dev/rank"] === "1");
  kube.mutate(resources.nodes, { namespace: "", name: "node-1" }, (one) => Object.assign(one.status.conditions[0], { status: "Unknown" }));
  await until("a new pod has rank 1", () =>
    pods(kube).some((object) => object.metadata.labels["enodia.dev/rank"] === "1" && object.metadata.uid !== victim.metadata.uid),
  );
  assert.equal(await kube.get(resources.pods, { namespace: "ns", name: victim.metadata.name }), undefined);
  await operator.plane.controller.stop();
  assert.ok(kube.all(resources.events).some((event) => event.reason === "NodeLost"));
  life.stop();
  await operator.stop();
});

test("what the API server or the operator refuses is said in SpecAccepted, and running pods are left alone", {
  timeout: 30_000,
}, async () => {
  const kube = await world();
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  const uids = pods(kube)
    .map((object) => object.metadata.uid)
    .sort();
  kube.admit = (resource, object) => {
    if (resource.kind === "Pod" && (object.spec as any).priorityClassName)
      throw new AppError("no PriorityClass with name gold was found", { code: "Forbidden" });
  };
  const refusal = async (reason: string) => {
    const found = conditionOf(await status(kube), "SpecAccepted");
    return found?.status === "False" && found.reason === reason;
  };
  await kube.patch(resources.moeDeployments, ref, { spec: { podTemplate: { spec: { priorityClassName: "gold" } } } }, user);
  await until("the pod is refused", () => refusal("PodRefused"));
  assert.match(conditionOf(await status(kube), "SpecAccepted").message, /no PriorityClass with name gold/);
  await kube.patch(
    resources.moeDeployments,
    ref,
    { spec: { podTemplate: { spec: { priorityClassName: null, hostNetwork: true } } } },
    user,
  );
  await until("the field is refused", () => refusal("FieldNotSupported"));
  assert.deepEqual(
    pods(kube)
      .map((object) => object.metadata.uid)
      .sort(),
    uids,
  );
  await kube.patch(resources.moeDeployments, ref, { spec: { podTemplate: null } }, user);
  await until("all is well again", readyWith(kube, 3));
  assert.deepEqual(
    pods(kube)
      .map((object) => object.metadata.uid)
      .sort(),
    uids,
  );
  life.stop();
  await operator.stop();
});

test("a missing claim and an object that cannot be read are conditions, not crashes", { timeout: 30_000 }, async () => {
  const kube = await world();
  kube.remove(resources.persistentVolumeClaims, { namespace: "ns", name: "models" });
  await kube.create(
    resources.moeDeployments,
    { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { namespace: "ns", name: "odd" }, spec: { model: {} } },
    user,
  );
  const operator = await startOperator(kube);
  await until("the claim is missed", async () => conditionOf(await status(kube), "ModelAvailable")?.reason === "ClaimNotFound");
  await until(
    "the odd one is refused",
    async () =>
      conditionOf((await kube.get(resources.moeDeployments, { namespace: "ns", name: "odd" }))?.status, "SpecAccepted")?.reason ===
      "InvalidSpec",
  );
  await operator.stop();
});

test("a deleted deployment is forgotten, and one of the same name is another world with another CA", { timeout: 30_000 }, async () => {
  const kube = await world();
  const life = kubelet(kube);
  const operator = await startOperator(kube);
  await until("3 ranks serve", readyWith(kube, 3));
  const ca = JSON.stringify((await kube.get(resources.secrets, { namespace: "ns", name: "moe-ca" }))?.data);
  const old = await kube.get(resources.moeDeployments, ref);
  kube.remove(resources.moeDeployments, ref);
  await kube.create(
    resources.moeDeployments,
    {
      apiVersion: "enodia.dev/v1alpha1",
      kind: "MoEDeployment",
      metadata: { ...ref },
      spec: { model: { uri: "pvc://models/moe" }, replicas: 2 },
    },
    user,
  );
  await until("2 ranks serve", readyWith(kube, 2));
  assert.deepEqual(operator.rebalance.forgotten, [old?.metadata.uid]);
  assert.notEqual(JSON.stringify((await kube.get(resources.secrets, { namespace: "ns", name: "moe-ca" }))?.data), ca);
  life.stop();
  await operator.stop();
});

/** Start, lose a node, shrink and roll at once; the operator dies at its n-th write and another takes over. */
async function crashAt(n: number): Promise<number> {
  const kube = await world();
  const life = kubelet(kube);
  let writes = 0;
  let dead = false;
  kube.onWrite = () => {
    if (dead) throw new AppError("killed", { code: "Unavailable" });
    writes += 1;
    if (writes === n) {
      dead = true;
      throw new AppError("killed", { code: "Unavailable" });
    }
  };
  const asUser = async (patch: object) => {
    const hook = kube.onWrite;
    kube.onWrite = () => {};
    await kube.patch(resources.moeDeployments, ref, patch, user);
    kube.onWrite = hook;
  };
  let operator = await startOperator(kube);
  const revive = async () => {
    if (!dead) return;
    await operator.stop();
    dead = false;
    n = -1;
    operator = await startOperator(kube);
  };
  const reach = (want: number) =>
    until(`${want} ranks serve`, async () => {
      await revive();
      return readyWith(kube, want)();
    });
  await reach(3);
  kube.mutate(resources.nodes, { namespace: "", name: "node-1" }, (one) => Object.assign(one.status.conditions[0], { status: "Unknown" }));
  await sleep(20);
  kube.mutate(resources.nodes, { namespace: "", name: "node-1" }, (one) => Object.assign(one.status.conditions[0], { status: "True" }));
  await asUser({ spec: { replicas: 2, runtime: { maxContext: 64 } } });
  await until("the new world stands", async () => {
    await revive();
    const hash = new Set(pods(kube).map((object) => object.metadata.annotations["enodia.dev/template-hash"]));
    return (await readyWith(kube, 2)()) && hash.size === 1 && conditionOf(await status(kube), "Progressing")?.reason === "Converged";
  });
  assert.equal(new Set(ranks(kube)).size, 2);
  assert.deepEqual(life.problems, []);
  assert.equal(kube.all(resources.secrets).filter((secret) => secret.metadata.name === "moe-ca").length, 1);
  life.stop();
  await operator.stop();
  return writes;
}

test("the operator may die before any of its writes: another ends in the same world", { timeout: 240_000 }, async () => {
  const total = await crashAt(-1);
  const atOnce = 8; // they mostly wait
  for (let n = 1; n <= total; n += atOnce) {
    await Promise.all(Array.from({ length: Math.min(atOnce, total - n + 1) }, (_, i) => crashAt(n + i)));
  }
});
