// The autoscaler in the deployment plane, on the in-memory API: what it writes, beside other writers, over a change of leader and a crash.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { signals } from "../../test/kit/deployment/autoscale.ts";
import {
  conditionOf,
  kubelet,
  pods,
  readyWith,
  ref,
  startOperator,
  status,
  user,
  world,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";
import { managersOf } from "../kube/managed-fields.ts";

const target = 100;
const autoscale = {
  min: 2,
  max: 4,
  metrics: [{ name: "queuedTokensPerRank", target }],
  behaviour: { scaleUp: { period: "1ms" }, scaleDown: { stabilizationWindow: "0s", period: "1ms" } },
};
const change = (kube: FakeKube, spec: object, by = user) => kube.patch(resources.moeDeployments, ref, { spec }, by);
const live = async (kube: FakeKube): Promise<any> => kube.get(resources.moeDeployments, ref);
const replicas = async (kube: FakeKube): Promise<number> => (await live(kube)).spec.replicas;
const says = (kube: FakeKube, reason: string) => async () => conditionOf(await status(kube), "ScalingActive")?.reason === reason;
const noted = (kube: FakeKube, reason: string): any[] => kube.all(resources.events).filter((event: any) => event.reason === reason);
/** The number falls to its default, which the in-memory API does not know of this kind, and nobody has it. */
function leaveOut(kube: FakeKube): void {
  const left = { manager: "left" };
  kube.mutate(resources.moeDeployments, ref, (object) => Object.assign(object.spec, { replicas: 1 }), left);
  kube.mutate(resources.moeDeployments, ref, ({ metadata }) => {
    metadata.managedFields = metadata.managedFields.filter((one: typeof left) => one.manager !== left.manager);
  });
}

/** Three ranks that serve under the autoscaler; nothing is heard of their load yet. */
async function scaled(t: TestContext) {
  const kube = await world();
  await change(kube, { elasticity: { settle: "1ms", autoscale } });
  const life = kubelet(kube);
  t.after(life.stop);
  const start = async () => {
    let passed = 0;
    const operator = await startOperator(kube, { now: () => new Date(Date.now() + passed) });
    t.after(operator.stop);
    passed = 20_000; // its sessions are open
    return operator;
  };
  const operator = await start();
  await until("3 ranks serve", readyWith(kube, 3));
  return { kube, life, operator, start };
}

test("more load brings a rank by /scale, less load takes it away, and both are told with from, to and why", {
  timeout: 120_000,
}, async (t) => {
  const { kube, life, operator } = await scaled(t);
  operator.rebalance.says(() => signals(target));
  await until("it is on its target", says(kube, "AtTarget"));
  operator.rebalance.says((_rank, serving) => signals(369 / serving)); // the same load, whoever bears it
  await until("4 ranks serve", readyWith(kube, 4));
  await until("that is enough", says(kube, "AtTarget"));
  const [owner, ...others] = managersOf(await live(kube), ["spec", "replicas"]);
  assert.deepEqual([owner?.manager, owner?.operation, others], ["enodia-autoscaler", "Update", []]);
  const now = await status(kube);
  const { from, to, message } = now.autoscale.lastScale;
  assert.deepEqual([from, to], [3, 4]);
  assert.equal(message, "queuedTokensPerRank 120/100; replicas 3 -> 4");
  assert.match(now.autoscale.progress, /^queuedTokensPerRank \d+\/100$/);
  assert.deepEqual(
    noted(kube, "ScaledUp").map(({ note }) => note),
    [message],
  );
  operator.rebalance.says(() => signals(0));
  await until("2 ranks serve", readyWith(kube, 2));
  await until("the least is told", says(kube, "AtMinimum"));
  assert.equal(await replicas(kube), 2);
  const down = noted(kube, "ScaledDown").map(({ note }) => /replicas (.*)$/.exec(note)?.[1]);
  assert.deepEqual(down.filter(Boolean), ["4 -> 3", "3 -> 2"], "one rank a step");
  assert.deepEqual(life.problems, []);
});

test("a rank that is not heard freezes it, with a warning, until it is heard again", { timeout: 120_000 }, async (t) => {
  const { kube, operator } = await scaled(t);
  operator.rebalance.says(() => signals(target));
  await until("it is on its target", says(kube, "AtTarget"));
  operator.rebalance.says((rank) => (rank === 1 ? undefined : signals(0)));
  await until("it is frozen", says(kube, "SignalsMissing"));
  assert.equal(conditionOf(await status(kube), "ScalingActive").status, "False");
  assert.equal((await status(kube)).autoscale, undefined, "figures of a part of the ranks are none");
  assert.equal(await replicas(kube), 3);
  assert.equal(noted(kube, "SignalsMissing")[0]?.type, "Warning");
  operator.rebalance.says(() => signals(0));
  await until("it goes on", async () => (await replicas(kube)) === 2);
});

test("another writer has the number, under this leader and the next, until autoscaling is asked for anew", {
  timeout: 120_000,
}, async (t) => {
  const { kube, operator, start } = await scaled(t);
  operator.rebalance.says(() => signals(900));
  await until("4 ranks serve", readyWith(kube, 4));
  const flux = { manager: "flux" };
  await change(kube, { replicas: 2 }, flux);
  await until("it stands still", says(kube, "ReplicasTaken"));
  assert.match(conditionOf(await status(kube), "ScalingActive").message, /"flux" has set spec\.replicas to 2 since the autoscaler set 4/);
  const writes: string[] = [];
  kube.onWrite = (verb) => void writes.push(verb);
  await until("2 ranks serve", readyWith(kube, 2));
  await operator.stop();
  const another = await start();
  another.rebalance.says(() => signals(900));
  await sleep(200);
  assert.equal(await replicas(kube), 2);
  assert.ok(!writes.includes("scale"), writes.join());
  await change(kube, { elasticity: { autoscale: null } });
  await until("nothing is said of it", async () => conditionOf(await status(kube), "ScalingActive") === undefined);
  assert.equal((await status(kube)).autoscale, undefined);
  await change(kube, { elasticity: { autoscale } });
  another.rebalance.says(() => signals(900));
  await until("it has the number again", async () => (await replicas(kube)) === 4);
});

test("whoever applies replicas keeps them, before a single write; left out there they stay as they are", {
  timeout: 120_000,
}, async (t) => {
  const kube = await world();
  const argo = { manager: "argocd" };
  const { apiVersion, kind, metadata, spec } = await live(kube);
  const applied = (more: object) => ({ apiVersion, kind, metadata: { ...ref, uid: metadata.uid }, spec: { ...spec, ...more } });
  const elasticity = { settle: "1ms", autoscale };
  await kube.apply(resources.moeDeployments, applied({ replicas: 4, elasticity }), { ...argo, force: true });
  t.after(kubelet(kube).stop);
  const writes: string[] = [];
  kube.onWrite = (verb) => void writes.push(verb);
  const operator = await startOperator(kube);
  t.after(operator.stop);
  operator.rebalance.says(() => signals(900));
  await until("it stands still", says(kube, "ReplicasApplied"));
  assert.deepEqual([await replicas(kube), writes.includes("scale")], [4, false]);
  await until("4 ranks serve", readyWith(kube, 4));
  const made = pods(kube).map(({ metadata: { uid } }) => uid);
  operator.rebalance.says(() => signals(target));
  leaveOut(kube);
  await until("they are put back", async () => (await replicas(kube)) === 4);
  await until("it goes on from there", says(kube, "AtTarget"));
  assert.deepEqual(
    pods(kube).map(({ metadata: { uid } }) => uid),
    made,
    "none of them has gone meanwhile",
  );
});

test("a number that nobody gives takes no rank away while it cannot be put back, nor with a least of one", {
  timeout: 120_000,
}, async (t) => {
  const { kube, operator } = await scaled(t);
  operator.rebalance.says(() => signals(target));
  await until("it is on its target", says(kube, "AtTarget"));
  await change(kube, { elasticity: { autoscale: { min: 1 } } });
  const made = pods(kube).map(({ metadata: { uid } }) => uid);
  let tries = 0;
  kube.onWrite = (verb, resource) => {
    if (verb !== "patch" || resource !== resources.moeDeployments) return;
    tries++;
    throw new AppError("the API server is not well", { code: "Unavailable" });
  };
  operator.rebalance.says(() => signals(0)); // the least, 1, would do by the load
  leaveOut(kube);
  await until("it was tried", () => tries > 0);
  await sleep(100); // many times the settle time
  const there = () => pods(kube).map(({ metadata: { uid } }) => uid);
  assert.deepEqual([there(), await replicas(kube)], [made, 1]);
  kube.onWrite = () => {};
  await until("they are put back, and then go one by one as the load says", async () => (await replicas(kube)) < 3 && there().length < 3);
});

test("a crash between the number and the status loses neither who set it nor that nobody else may be overruled", {
  timeout: 120_000,
}, async (t) => {
  const { kube, operator, start } = await scaled(t);
  operator.rebalance.says(() => signals(target));
  await until("it is on its target", says(kube, "AtTarget"));
  let dead = false;
  kube.onWrite = (verb) => {
    if (dead) throw new Error("the process is gone");
    dead = verb === "scale";
  };
  operator.rebalance.says(() => signals(130));
  await until("it is dead", () => dead);
  await operator.stop();
  kube.onWrite = () => {};
  assert.equal((await status(kube)).autoscale.lastScale, undefined);
  await until("the number was set all the same", async () => (await replicas(kube)) === 4);
  const another = await start();
  another.rebalance.says(() => signals(97));
  await until("the next leader knows", async () => (await status(kube)).autoscale?.lastScale?.to === 4);
  await change(kube, { replicas: 2 }, { manager: "flux" });
  await until("it stands still", says(kube, "ReplicasTaken"));
});
