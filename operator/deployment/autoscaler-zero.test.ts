// Zero ranks in the deployment plane, on the in-memory API: who is told before the last rank goes, what brings them back, whose zero it is,
// and a crash between the number and the status. Gateways are played here; runtime/gateway/hold.int.test.ts has a real one.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { signals } from "../../test/kit/deployment/autoscale.ts";
import { type MoeWorld, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import type { GatewayView, World } from "./ports.ts";

const holdMs = 120_000;
const long = { idleMs: 3_600_000 };
const asks = { idleMs: 0, wantsRanks: true };
const autoscale = {
  min: 2,
  max: 4,
  metrics: [{ name: "queuedTokensPerRank", target: 100 }],
  scaleToZero: { idleAfter: "1s", holdTimeout: "2m" },
};
const replicas = async (moe: MoeWorld): Promise<number> => (await moe.get("moeDeployments")).spec.replicas;
const holds = (moe: MoeWorld, ms: number) => until(`gateways hold for ${ms} ms`, () => moe.rebalance.world?.holdMs === ms);
const gone = (moe: MoeWorld) => until("no pod is there", async () => (await replicas(moe)) === 0 && moe.pods.length === 0);

/** Another operator, whose sessions are open, and a gateway that says this. */
async function lead(moe: MoeWorld, front: Partial<GatewayView> = { idleMs: 0 }): Promise<void> {
  moe.aheadMs = 0;
  await moe.start();
  moe.aheadMs = 20_000;
  moe.rebalance.fronts(front);
  moe.rebalance.says(() => signals(0));
}
/** Three ranks that serve, and a gateway that has a request. */
async function served(t: TestContext, front?: Partial<GatewayView>): Promise<MoeWorld> {
  const moe = await world(t, { elasticity: { settle: "1ms", autoscale } });
  await lead(moe, front);
  await moe.serves(3);
  return moe;
}

test("nobody asks: gateways hold what comes, all ranks go, and the first request brings the least back", async (t) => {
  const moe = await served(t);
  assert.equal(moe.rebalance.world?.holdMs, 0);
  moe.rebalance.fronts({ ...long, holds: false });
  await holds(moe, holdMs);
  await moe.comes("ScalingActive", /once every gateway has said/);
  await sleep(100);
  assert.equal(await replicas(moe), 3, "no rank goes before every gateway holds");
  moe.rebalance.fronts({ ...long, holds: true });
  await gone(moe);
  await moe.comes("Ready", "ScaledToZero");
  await moe.check("Ready", "True", /^gateways hold what comes: at zero since \S+Z; 2 ranks come with the first request$/);
  await moe.check("Available", "True");
  const now = (await moe.status()).autoscale;
  assert.match(now.lastScale.message, /^queuedTokensPerRank|^no request since \S+Z, for 1s: replicas 3 -> 0$/);
  assert.match(now.progress, /^at zero since \S+Z$/);
  await sleep(100);
  assert.deepEqual([await replicas(moe), moe.rebalance.world?.holdMs], [0, holdMs], "time that passes brings nobody");
  const told: World[] = [];
  const update = moe.rebalance.update.bind(moe.rebalance);
  moe.rebalance.update = (world) => {
    told.push(world);
    update(world);
  };
  moe.rebalance.fronts(asks);
  await moe.serves(2);
  const before = told.filter(({ workers }) => workers.every(({ ready }) => !ready));
  assert.deepEqual([...new Set(before.map((world) => world.holdMs))], [holdMs], "a request that waits is held until a rank is there");
  await holds(moe, 0);
  const { from, to, message } = (await moe.status()).autoscale.lastScale;
  assert.deepEqual([from, to], [0, 2]);
  assert.match(message, /^replicas 0 -> 2: gateway moe-gateway-a has requests/);
});

test("a request before the last gateway holds ends it: nothing is set, and nothing is held", async (t) => {
  const moe = await served(t);
  moe.rebalance.fronts({ ...long, holds: false });
  await holds(moe, holdMs);
  moe.rebalance.fronts({ idleMs: 0, holds: true });
  await holds(moe, 0);
  assert.equal(await replicas(moe), 3);
});

test("a gateway that cannot say whether anybody asks keeps the ranks, and is named", async (t) => {
  const moe = await served(t, { idleMs: undefined });
  await moe.comes("ScalingActive", /not to zero: gateways moe-gateway-a do not say/);
  assert.deepEqual([await replicas(moe), moe.rebalance.world?.holdMs], [3, 0]);
});

test("a zero that somebody else sets is obeyed, whoever asks, and nothing is held for it", async (t) => {
  const moe = await served(t);
  await moe.change({ replicas: 0 }, { manager: "flux" });
  await until("no pod is there", () => moe.pods.length === 0);
  moe.rebalance.fronts(asks);
  await holds(moe, 0);
  await sleep(100);
  assert.equal(await replicas(moe), 0);
  await moe.check("Available", "False");
  await lead(moe, asks);
  await holds(moe, 0);
  await sleep(100);
  assert.equal(await replicas(moe), 0);
});

test("a crash between 0 and the status: the next leader holds from its first look on, and the first request finds ranks", async (t) => {
  const moe = await served(t);
  let dead = false;
  moe.kube.onWrite = (verb) => {
    if (dead) throw new Error("the process is gone");
    dead = verb === "scale" || verb === "patch";
  };
  moe.rebalance.fronts(long);
  await until("it is dead", async () => dead && (await replicas(moe)) === 0);
  await moe.stop();
  moe.kube.onWrite = () => {};
  assert.notEqual((await moe.status()).autoscale?.lastScale?.to, 0);
  await lead(moe, long);
  await until("it looks", () => moe.rebalance.world !== undefined);
  assert.equal(moe.rebalance.world?.holdMs, holdMs);
  await moe.comes("Ready", "ScaledToZero");
  moe.rebalance.fronts(asks);
  await moe.serves(2);
});

test("the operator is away while somebody asks: the next one brings ranks", async (t) => {
  const moe = await served(t);
  moe.rebalance.fronts(long);
  await gone(moe);
  await moe.comes("Ready", "ScaledToZero");
  await lead(moe, asks);
  await moe.serves(2);
});
