// The autoscaler in the deployment plane, on the in-memory API: what it writes, beside other writers, over a change of leader and a crash.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { signals } from "../../test/kit/deployment/autoscale.ts";
import { type MoeWorld, ref, world } from "../../test/kit/deployment/moe-world.ts";
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
const flux = { manager: "flux" };
const elasticity = { settle: "1ms", autoscale };
const replicas = async (moe: MoeWorld): Promise<number> => (await moe.get("moeDeployments")).spec.replicas;
const says = (moe: MoeWorld, ...want: (string | RegExp)[]) => moe.comes("ScalingActive", ...want);
/** The number falls to its default, which the in-memory API does not know of this kind, and nobody has it. */
function leaveOut(moe: MoeWorld): void {
  const left = { manager: "left" };
  moe.mutate("moeDeployments", "moe", ({ spec }) => Object.assign(spec, { replicas: 1 }), left);
  moe.mutate("moeDeployments", "moe", ({ metadata }) => {
    metadata.managedFields = metadata.managedFields.filter((one: typeof left) => one.manager !== left.manager);
  });
}
function verbsOf(moe: MoeWorld): string[] {
  const verbs: string[] = [];
  moe.kube.onWrite = (verb) => void verbs.push(verb);
  return verbs;
}
/** Another operator, whose sessions are open. */
async function lead(moe: MoeWorld): Promise<void> {
  moe.aheadMs = 0;
  await moe.start();
  moe.aheadMs = 20_000;
}

/** Three ranks that serve under the autoscaler; nothing is heard of their load yet. */
async function scaled(t: TestContext): Promise<MoeWorld> {
  const moe = await world(t, { elasticity });
  await lead(moe);
  await moe.serves(3);
  return moe;
}
/** Three ranks with the load that is aimed at. */
async function onTarget(t: TestContext): Promise<MoeWorld> {
  const moe = await scaled(t);
  moe.rebalance.says(() => signals(target));
  await says(moe, "AtTarget");
  return moe;
}

test("more load brings a rank by /scale, less load takes it away, and both are told with from, to and why", async (t) => {
  const moe = await onTarget(t);
  moe.rebalance.says((_rank, serving) => signals(369 / serving)); // the same load, whoever bears it
  await moe.serves(4);
  await says(moe, "AtTarget");
  const [owner, ...others] = managersOf(await moe.get("moeDeployments"), ["spec", "replicas"]);
  assert.deepEqual([owner?.manager, owner?.operation, others], ["enodia-autoscaler", "Update", []]);
  const { lastScale, progress } = (await moe.status()).autoscale;
  const { from, to, message } = lastScale;
  assert.deepEqual([from, to, message], [3, 4, "queuedTokensPerRank 120/100; replicas 3 -> 4"]);
  assert.match(progress, /^queuedTokensPerRank \d+\/100$/);
  const notes = (reason: string): string[] => moe.events(reason).map(({ note }) => note);
  assert.deepEqual(notes("ScaledUp"), [message]);
  moe.rebalance.says(() => signals(0));
  await moe.serves(2);
  await says(moe, "AtMinimum");
  assert.equal(await replicas(moe), 2);
  const down = notes("ScaledDown").map((note) => /replicas (.*)$/.exec(note)?.[1]);
  assert.deepEqual(down.filter(Boolean), ["4 -> 3", "3 -> 2"], "one rank a step");
});

test("a rank that is not heard freezes it, with a warning, until it is heard again", async (t) => {
  const moe = await onTarget(t);
  moe.rebalance.says((rank) => (rank === 1 ? undefined : signals(0)));
  await says(moe, "False", "SignalsMissing");
  assert.equal((await moe.status()).autoscale, undefined, "figures of a part of the ranks are none");
  assert.equal(await replicas(moe), 3);
  assert.equal(moe.events("SignalsMissing")[0]?.type, "Warning");
  moe.rebalance.says(() => signals(0));
  await until("it goes on", async () => (await replicas(moe)) === 2);
});

test("another writer has the number, under this leader and the next, until autoscaling is asked for anew", async (t) => {
  const moe = await scaled(t);
  moe.rebalance.says(() => signals(900));
  await moe.serves(4);
  await moe.change({ replicas: 2 }, flux);
  await says(moe, "ReplicasTaken", /"flux" has set spec\.replicas to 2 since the autoscaler set 4/);
  const writes = verbsOf(moe);
  await moe.serves(2);
  await lead(moe);
  moe.rebalance.says(() => signals(900));
  await sleep(200);
  assert.equal(await replicas(moe), 2);
  assert.ok(!writes.includes("scale"), writes.join());
  await moe.change({ elasticity: { autoscale: null } });
  await until("nothing is said of it", async () => (await moe.condition("ScalingActive")) === undefined);
  assert.equal((await moe.status()).autoscale, undefined);
  await moe.change({ elasticity: { autoscale } });
  moe.rebalance.says(() => signals(900));
  await until("it has the number again", async () => (await replicas(moe)) === 4);
});

test("whoever applies replicas keeps them, before a single write; left out there they stay as they are", async (t) => {
  const moe = await world(t);
  const { apiVersion, kind, metadata, spec } = await moe.get("moeDeployments");
  const applied = { apiVersion, kind, metadata: { ...ref, uid: metadata.uid }, spec: { ...spec, replicas: 4, elasticity } };
  await moe.kube.apply(resources.moeDeployments, applied, { manager: "argocd", force: true });
  const writes = verbsOf(moe);
  await moe.start();
  moe.rebalance.says(() => signals(900));
  await says(moe, "ReplicasApplied");
  assert.deepEqual([await replicas(moe), writes.includes("scale")], [4, false]);
  await moe.serves(4);
  const made = moe.uids;
  moe.rebalance.says(() => signals(target));
  leaveOut(moe);
  await until("they are put back", async () => (await replicas(moe)) === 4);
  await says(moe, "AtTarget");
  assert.deepEqual(moe.uids, made, "none of them has gone meanwhile");
});

test("a number that nobody gives takes no rank away while it cannot be put back, nor with a least of one", async (t) => {
  const moe = await onTarget(t);
  await moe.change({ elasticity: { autoscale: { min: 1 } } });
  const made = moe.uids;
  let tries = 0;
  moe.kube.onWrite = (verb, resource) => {
    if (verb !== "patch" || resource !== resources.moeDeployments) return;
    tries++;
    throw new AppError("the API server is not well", { code: "Unavailable" });
  };
  moe.rebalance.says(() => signals(0)); // the least, 1, would do by the load
  leaveOut(moe);
  await until("it was tried", () => tries > 0);
  await sleep(100); // many times the settle time
  assert.deepEqual([moe.uids, await replicas(moe)], [made, 1]);
  moe.kube.onWrite = () => {};
  await until("they are put back, and then go one by one", async () => (await replicas(moe)) < 3 && moe.pods.length < 3);
});

test("a crash between the number and the status loses neither who set it nor that nobody else may be overruled", async (t) => {
  const moe = await onTarget(t);
  let dead = false;
  moe.kube.onWrite = (verb) => {
    if (dead) throw new Error("the process is gone");
    dead = verb === "scale";
  };
  moe.rebalance.says(() => signals(130));
  await until("it is dead", () => dead);
  await moe.stop();
  moe.kube.onWrite = () => {};
  assert.equal((await moe.status()).autoscale.lastScale, undefined);
  await until("the number was set all the same", async () => (await replicas(moe)) === 4);
  await lead(moe);
  moe.rebalance.says(() => signals(97));
  await until("the next leader knows", async () => (await moe.status()).autoscale?.lastScale?.to === 4);
  await moe.change({ replicas: 2 }, flux);
  await says(moe, "ReplicasTaken");
});
