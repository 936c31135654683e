// Changes of model and codec with room: a green deployment serves meanwhile, what it cannot serve is rolled back, and where it finds no room, all
// stop before others start. Whatever the operator dies between, the Service leads to gateways that serve.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { crashing, type MoeWorld, whole } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { heardOfMs } from "./features/blue-green.ts";

const other = { model: { uri: "pvc://models/other" } };
const envOf = (pod: any, name: string) => pod.spec.containers[0].env.find((one: { name: string }) => one.name === name)?.value;
const isOther = (pod: any): boolean => envOf(pod, "ENODIA_MODEL_PATH") === "/models/other" || envOf(pod, "ENODIA_EXPERT_CODEC") === "f32";
const greens = (moe: MoeWorld): any[] => moe.all("moeDeployments").filter(({ metadata }) => metadata.name !== "moe");
const selector = (moe: MoeWorld): Record<string, string> =>
  moe.all("services").find(({ metadata }) => metadata.name === "moe").spec.selector;
/** The name of a deployment, or that of both. */
const leadsTo = (moe: MoeWorld): string => selector(moe)["enodia.dev/deployment"] ?? "both";
const ready = (moe: MoeWorld, name: string): number => {
  const front = moe.all("deployments").find(({ metadata }) => metadata.name === `${name}-gateway`);
  if (!front?.status?.readyReplicas) return 0;
  return moe.all("pods").filter(({ metadata: { labels, deletionTimestamp }, status }) => {
    const isReady = status?.conditions?.some((one: any) => one.type === "Ready" && one.status === "True");
    return labels["enodia.dev/deployment"] === name && isReady && deletionTimestamp === undefined;
  }).length;
};

/** Watches every write: whom the Service leads to while somebody could serve, green deployments at once, and models in one world. */
async function watched(t: TestContext, fate?: (pod: any) => object | undefined) {
  const moe = await whole(t, fate);
  const seen = { dips: [] as string[], most: 0, mixed: 0, led: new Set<string>(), said: new Set<string>() };
  const look = () => {
    const children = greens(moe);
    seen.most = Math.max(seen.most, children.length);
    const front = leadsTo(moe);
    seen.led.add(front);
    const others = ["moe", ...children.map(({ metadata }) => metadata.name)].filter((name) => name !== front);
    if (front !== "both" && ready(moe, front) === 0 && others.some((name) => ready(moe, name) > 0)) seen.dips.push(front);
    if (new Set(moe.pods.map(isOther)).size > 1) seen.mixed += 1;
    seen.said.add(moe.all("moeDeployments").find(({ metadata }) => metadata.name === "moe")?.status?.operation?.message);
  };
  moe.kube.onWrite = look;
  const wellDone = () => assert.deepEqual([seen.dips, seen.most, seen.mixed, leadsTo(moe)], [[], 1, 0, "moe"]);
  return { moe, seen, look, wellDone, were: moe.uids };
}
async function isOver(moe: MoeWorld): Promise<boolean> {
  const { operation, rollout } = await moe.status();
  const nothing = greens(moe).length === 0 && operation === undefined && rollout?.green === undefined;
  return nothing && moe.pods.every(isOther) && moe.ready(3);
}
const over = (moe: MoeWorld) => until("the other model serves", () => isOver(moe));
async function rolledBack(moe: MoeWorld): Promise<any> {
  await until("it is rolled back", async () => (await moe.phase()) === "RolledBack" && greens(moe).length === 0);
  return (await moe.status()).rollout.rolledBack;
}

const changes: Record<string, object> = { model: other, codec: { runtime: { expertCodec: "f32" } } };
for (const [name, spec] of Object.entries(changes))
  test(`another ${name} serves by a green deployment until the ranks have changed`, async (t) => {
    const { moe, wellDone } = await watched(t);
    await moe.change(spec);
    await until("the green deployment is there", () => greens(moe).length === 1);
    const [child] = greens(moe);
    assert.deepEqual([child.spec.model.servedName, child.spec.replicas, child.spec.gateway.replicas], ["moe", 3, 1]);
    assert.deepEqual([child.metadata.ownerReferences[0].name, child.metadata.labels["enodia.dev/green-of"]], ["moe", "moe"]);
    await until("the Service leads to it", () => leadsTo(moe) === child.metadata.name);
    assert.equal(moe.pods.some(isOther), false, "the ranks wait for the last to hear of it");
    await until("the ranks change", () => moe.pods.every(isOther));
    await moe.check("Available", "True");
    assert.equal((await moe.status()).operation.type, "Roll");
    await over(moe);
    wellDone();
    const { history, rollout } = await moe.status();
    assert.deepEqual([history[0].type, history[0].result, rollout.phase, rollout.stableRevision], ["Roll", "Done", "Complete", 2]);
  });

test("a model whose ranks crash is rolled back, and no rank that serves has gone for it", async (t) => {
  const { moe, seen, were } = await watched(t, (pod) => (isOther(pod) ? crashing : undefined));
  await moe.change(other);
  const { reason, fromRevision, toRevision } = await rolledBack(moe);
  await until("all is over", async () => (await moe.status()).operation === undefined);
  assert.deepEqual([reason, fromRevision, toRevision], ["Crashing", 0, 1]);
  assert.equal((await moe.status()).history[0].result, "RolledBack");
  await moe.check("SpecAccepted", /green deployment tried, was rolled back to revision 1: Crashing: pod moe-/);
  assert.deepEqual([moe.uids, [...seen.led], seen.most], [were, ["moe"], 1]);
});

const analysis = { bake: "1s", latencyPercent: 150, minRequests: 5 };
/** Each look finds that many more tokens, of so many microseconds each, until the promise has ended. */
async function growing(moe: MoeWorld, microsOf: (name: string) => number, end: () => Promise<unknown>): Promise<void> {
  let looks = 0;
  const served = (name: string) => {
    looks += 1;
    return { requests: looks, failed: 0, gaps: looks, gapMicros: looks * microsOf(name) };
  };
  const woken = setInterval(() => moe.rebalance.serves(served), 200);
  await end().finally(() => clearInterval(woken));
}

test("another model serves beside the ranks as a canary first, with its share of the gateways", async (t) => {
  const { moe, wellDone } = await watched(t);
  await moe.change({ replicas: 3, gateway: { replicas: 3 } });
  await until("it has its gateways", () => ready(moe, "moe") === 3);
  await moe.change({ ...other, rolloutStrategy: { canary: { ranks: 1, analysis } } });
  await moe.reaches("Baking");
  const [child] = greens(moe);
  assert.deepEqual(selector(moe), { "enodia.dev/component": "gateway", "enodia.dev/front": "moe" });
  assert.equal(child.spec.gateway.replicas, 1, "one of three ranks is one of three gateways");
  assert.equal((await moe.status()).operation.phase, "Baking");
  await growing(
    moe,
    () => 1_000,
    () => until("the Service leads to it", () => leadsTo(moe) === child.metadata.name),
  );
  assert.equal(greens(moe)[0]?.spec.gateway.replicas, 3);
  await over(moe);
  wellDone();
});

test("a model that is slow as a canary is rolled back, and no rank that serves has gone for it", async (t) => {
  const { moe, seen, were } = await watched(t);
  await moe.change({ ...other, rolloutStrategy: { canary: { analysis: { ...analysis, bake: "1h" } } } });
  await moe.reaches("Baking");
  await growing(
    moe,
    (name) => (name === "moe" ? 1_000 : 2_000),
    () => rolledBack(moe),
  );
  const { reason, message } = await rolledBack(moe);
  assert.equal(reason, "LatencyExceeded");
  assert.match(message, /200\.0%, at most 150% are allowed/);
  assert.deepEqual([moe.uids, [...seen.led], seen.dips], [were, ["moe", "both"], []]);
});

test("where a green deployment finds no room in its time, all ranks stop before others start", async (t) => {
  const reason = { type: "PodScheduled", status: "False", reason: "Unschedulable", message: "0/3 nodes are available" };
  const pending = { phase: "Pending", conditions: [reason] };
  const { moe, seen } = await watched(t, (pod) => (pod.metadata.labels["enodia.dev/deployment"] === "moe" ? undefined : pending));
  await moe.change({ ...other, rolloutStrategy: { progressDeadline: "5s" } });
  await over(moe);
  assert.match([...seen.said].join("\n"), /no capacity for green deployment moe-.*Unschedulable/);
  assert.equal((await moe.status()).rollout.rolledBack, undefined);
});

test("a change that is paused has no green deployment, and one when it is let go", async (t) => {
  const { moe, seen, wellDone } = await watched(t);
  await moe.change({ ...other, rolloutStrategy: { paused: true } });
  await moe.reaches("Paused");
  assert.equal(seen.most, 0);
  await moe.change({ rolloutStrategy: { paused: false } });
  await over(moe);
  wellDone();
});

test("a strategy without a surge has no green deployment", async (t) => {
  const { moe, seen } = await watched(t);
  await moe.change({ ...other, rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
  await over(moe);
  assert.equal(seen.most, 0);
});

test("a spec that is rolled back, and one that changes again, leave one green deployment at most", async (t) => {
  const never = { phase: "Running", conditions: [{ type: "Ready", status: "False" }] };
  const { moe, wellDone } = await watched(t, (pod) => (envOf(pod, "ENODIA_MODEL_PATH") === "/models/slow" ? never : undefined));
  await moe.change({ model: { uri: "pvc://models/slow" } });
  await until("a green deployment is there", () => greens(moe).length === 1);
  const [{ metadata: first }] = greens(moe);
  await moe.change(other);
  await until("it is another", () => greens(moe).some(({ metadata }) => metadata.name !== first.name));
  await over(moe);
  wellDone();
});

/** Writes with which each life finds out what is there, and those of which it then dies before another. */
const [firstWrites, otherWrites] = [8, 37];

test("an operator that is killed again and again goes on where it was", async (t) => {
  const { moe, look, wellDone } = await watched(t);
  await moe.stop();
  await moe.change(other);
  let [writes, lives, dead] = [0, 0, false];
  moe.aheadMs = 0;
  moe.kube.onWrite = (_verb, resource) => {
    look();
    if (resource.kind === "Event") return;
    writes += 1;
    if (!dead && writes <= firstWrites + ((lives * 7) % otherWrites)) return;
    dead = true;
    throw new AppError("killed", { code: "Unavailable" });
  };
  while (!(await isOver(moe))) {
    [dead, writes] = [false, 0];
    lives += 1;
    assert.ok(lives < 200, "it comes to an end");
    await moe.start();
    let [quiet, seenWrites] = [0, -1];
    await until("it is killed, or waits", () => {
      quiet = writes === seenWrites ? quiet + 1 : 0;
      seenWrites = writes;
      return dead || quiet > 80;
    });
    await moe.stop();
    moe.aheadMs += heardOfMs + 1_000;
  }
  wellDone();
  assert.ok(lives > 5, `${lives} lives`);
});
