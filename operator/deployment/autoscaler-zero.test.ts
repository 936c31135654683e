// Zero ranks in the deployment plane, on the in-memory API: who is told before the last rank goes, what brings them back, whose zero it is,
// and a crash between the number and the status. Gateways are played here; runtime/gateway/hold.int.test.ts has a real one.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
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
import type { GatewayView, World } from "./ports.ts";

const holdMs = 120_000;
const long = { idleMs: 3_600_000 };
const autoscale = {
  min: 2,
  max: 4,
  metrics: [{ name: "queuedTokensPerRank", target: 100 }],
  scaleToZero: { idleAfter: "1s", holdTimeout: "2m" },
};
const change = (kube: FakeKube, spec: object, by = user) => kube.patch(resources.moeDeployments, ref, { spec }, by);
const replicas = async (kube: FakeKube): Promise<number> => ((await kube.get(resources.moeDeployments, ref)) as any).spec.replicas;
const says = (kube: FakeKube, type: string, reason: string) => async () => conditionOf(await status(kube), type)?.reason === reason;

/** Three ranks that serve, and a gateway that has a request. */
async function served(t: TestContext, front: Partial<GatewayView> = { idleMs: 0 }) {
  const kube = await world();
  await change(kube, { elasticity: { settle: "1ms", autoscale } });
  const life = kubelet(kube);
  t.after(life.stop);
  const start = async (says = front) => {
    let passed = 0;
    const operator = await startOperator(kube, { now: () => new Date(Date.now() + passed) });
    t.after(operator.stop);
    passed = 20_000; // its sessions are open
    operator.rebalance.fronts(says);
    operator.rebalance.says(() => signals(0));
    return operator;
  };
  const operator = await start();
  await until("3 ranks serve", readyWith(kube, 3));
  return { kube, operator, start };
}

async function atZero(t: TestContext) {
  const all = await served(t);
  all.operator.rebalance.fronts(long);
  await until("no pod is there", async () => (await replicas(all.kube)) === 0 && pods(all.kube).length === 0);
  await until("it says so", says(all.kube, "Ready", "ScaledToZero"));
  return all;
}

test("nobody asks: gateways hold what comes, all ranks go, and the first request brings the least back", {
  timeout: 120_000,
}, async (t) => {
  const { kube, operator } = await served(t);
  assert.equal(operator.rebalance.world?.holdMs, 0);
  operator.rebalance.fronts({ ...long, holds: false });
  await until("gateways are told", () => operator.rebalance.world?.holdMs === holdMs);
  await until("it waits for them", async () =>
    /once every gateway has said/.test(conditionOf(await status(kube), "ScalingActive")?.message),
  );
  await sleep(100);
  assert.equal(await replicas(kube), 3, "no rank goes before every gateway holds");
  operator.rebalance.fronts({ ...long, holds: true });
  await until("all are gone", async () => (await replicas(kube)) === 0 && pods(kube).length === 0);
  await until("it is well", says(kube, "Ready", "ScaledToZero"));
  const now = await status(kube);
  assert.deepEqual([conditionOf(now, "Ready").status, conditionOf(now, "Available").status], ["True", "True"]);
  assert.match(conditionOf(now, "Ready").message, /^gateways hold what comes: at zero since \S+Z; 2 ranks come with the first request$/);
  assert.match(now.autoscale.lastScale.message, /^queuedTokensPerRank|^no request since \S+Z, for 1s: replicas 3 -> 0$/);
  assert.match(now.autoscale.progress, /^at zero since \S+Z$/);
  await sleep(100);
  assert.deepEqual([await replicas(kube), operator.rebalance.world?.holdMs], [0, holdMs], "time that passes brings nobody");
  const told: World[] = [];
  const update = operator.rebalance.update.bind(operator.rebalance);
  operator.rebalance.update = (world) => {
    told.push(world);
    update(world);
  };
  operator.rebalance.fronts({ idleMs: 0, wantsRanks: true });
  await until("2 ranks serve", readyWith(kube, 2));
  const before = told.filter(({ workers }) => workers.every(({ ready }) => !ready));
  assert.ok(before.length > 0);
  assert.deepEqual([...new Set(before.map((world) => world.holdMs))], [holdMs], "a request that waits is held until a rank is there");
  await until("it holds no more", () => operator.rebalance.world?.holdMs === 0);
  const { from, to, message } = (await status(kube)).autoscale.lastScale;
  assert.deepEqual([from, to], [0, 2]);
  assert.match(message, /^replicas 0 -> 2: gateway moe-gateway-a has requests/);
});

test("a request before the last gateway holds ends it: nothing is set, and nothing is held", { timeout: 120_000 }, async (t) => {
  const { kube, operator } = await served(t);
  operator.rebalance.fronts({ ...long, holds: false });
  await until("gateways are told", () => operator.rebalance.world?.holdMs === holdMs);
  operator.rebalance.fronts({ idleMs: 0, holds: true });
  await until("it is over", () => operator.rebalance.world?.holdMs === 0);
  assert.equal(await replicas(kube), 3);
});

test("a gateway that cannot say whether anybody asks keeps the ranks, and is named", { timeout: 120_000 }, async (t) => {
  const { kube, operator } = await served(t, { idleMs: undefined });
  const named = async () =>
    /not to zero: gateways moe-gateway-a do not say/.test(conditionOf(await status(kube), "ScalingActive")?.message);
  await until("it says why", named);
  assert.deepEqual([await replicas(kube), operator.rebalance.world?.holdMs], [3, 0]);
});

test("a zero that somebody else sets is obeyed, whoever asks, and nothing is held for it", { timeout: 120_000 }, async (t) => {
  const { kube, operator, start } = await served(t);
  await change(kube, { replicas: 0 }, { manager: "flux" });
  await until("no pod is there", () => pods(kube).length === 0);
  operator.rebalance.fronts({ idleMs: 0, wantsRanks: true });
  await until("it is theirs", () => operator.rebalance.world?.holdMs === 0);
  await sleep(100);
  assert.equal(await replicas(kube), 0);
  assert.equal(conditionOf(await status(kube), "Available").status, "False");
  await operator.stop();
  const another = await start();
  another.rebalance.fronts({ idleMs: 0, wantsRanks: true });
  await until("the next leader finds so, too", () => another.rebalance.world?.holdMs === 0);
  await sleep(100);
  assert.equal(await replicas(kube), 0);
});

test("a crash between 0 and the status: the next leader holds from its first look on, and the first request finds ranks", {
  timeout: 120_000,
}, async (t) => {
  const { kube, operator, start } = await served(t);
  let dead = false;
  kube.onWrite = (verb) => {
    if (dead) throw new Error("the process is gone");
    dead = verb === "scale" || verb === "patch";
  };
  operator.rebalance.fronts(long);
  await until("it is dead", async () => dead && (await replicas(kube)) === 0);
  await operator.stop();
  kube.onWrite = () => {};
  assert.notEqual((await status(kube)).autoscale?.lastScale?.to, 0);
  const another = await start(long);
  await until("it looks", () => another.rebalance.world !== undefined);
  assert.equal(another.rebalance.world?.holdMs, holdMs);
  await until("it knows whose zero it is", says(kube, "Ready", "ScaledToZero"));
  another.rebalance.fronts({ idleMs: 0, wantsRanks: true });
  await until("2 ranks serve", readyWith(kube, 2));
});

test("the operator is away while somebody asks: the next one brings ranks", { timeout: 120_000 }, async (t) => {
  const { kube, operator, start } = await atZero(t);
  await operator.stop();
  const another = await start();
  another.rebalance.fronts({ idleMs: 0, wantsRanks: true });
  await until("2 ranks serve", readyWith(kube, 2));
});
