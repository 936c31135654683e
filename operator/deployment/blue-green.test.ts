// Changes of model and codec with room: a green deployment serves meanwhile, what it cannot serve is rolled back, and where it finds no room, all
// stop before others start. Whatever the operator dies between, the Service leads to gateways that serve.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import {
  conditionOf,
  crashing,
  pods,
  readyWith,
  ref,
  serving,
  startOperator,
  status,
  user,
} from "../../test/kit/deployment/deployment-plane.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";
import { heardOfMs } from "./features/blue-green.ts";

const timeout = 120_000;
const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const other = { model: { uri: "pvc://models/other" } };
const envOf = (pod: any, name: string) => pod.spec.containers[0].env.find((one: { name: string }) => one.name === name)?.value;
const isOther = (pod: any): boolean => envOf(pod, "ENODIA_MODEL_PATH") === "/models/other" || envOf(pod, "ENODIA_EXPERT_CODEC") === "f32";
const greens = (kube: FakeKube): any[] => kube.all(resources.moeDeployments).filter(({ metadata }) => metadata.name !== ref.name);
const selector = (kube: FakeKube): Record<string, string> =>
  (kube.all(resources.services).find(({ metadata }) => metadata.name === ref.name) as any).spec.selector;
/** The name of a deployment, or that of both. */
const leadsTo = (kube: FakeKube): string => selector(kube)["enodia.dev/deployment"] ?? "both";
const ready = (kube: FakeKube, name: string): number =>
  ((kube.all(resources.deployments) as any[]).find(({ metadata }) => metadata.name === `${name}-gateway`)?.status?.readyReplicas ?? 0) > 0
    ? kube.all(resources.pods).filter((pod: any) => {
        const { labels } = pod.metadata;
        const isReady = pod.status?.conditions?.some((one: any) => one.type === "Ready" && one.status === "True");
        return labels["enodia.dev/deployment"] === name && isReady && pod.metadata.deletionTimestamp === undefined;
      }).length
    : 0;

/** Watches every write: whom the Service leads to while somebody could serve, green deployments at once, and models in one world. */
function watch(kube: FakeKube) {
  const seen = { dips: [] as string[], most: 0, mixed: 0, led: new Set<string>(), said: new Set<string>() };
  const look = () => {
    const children = greens(kube);
    seen.most = Math.max(seen.most, children.length);
    const front = leadsTo(kube);
    seen.led.add(front);
    const others = [ref.name, ...children.map(({ metadata }) => metadata.name)].filter((name) => name !== front);
    if (front !== "both" && ready(kube, front) === 0 && others.some((name) => ready(kube, name) > 0)) seen.dips.push(front);
    if (new Set(pods(kube).map(isOther)).size > 1) seen.mixed += 1;
    seen.said.add(
      (kube.all(resources.moeDeployments).find(({ metadata }) => metadata.name === ref.name)?.status as any)?.operation?.message,
    );
  };
  kube.onWrite = look;
  return Object.assign(seen, { look });
}

const over = (kube: FakeKube, wanted: boolean) => async () => {
  const { operation, rollout } = await status(kube);
  const same = pods(kube).length === 3 && pods(kube).every((pod) => isOther(pod) === wanted);
  return same && greens(kube).length === 0 && operation === undefined && rollout?.green === undefined && (await readyWith(kube, 3)());
};
async function whole(fate?: (pod: any) => object | undefined) {
  const cluster = await serving(fate);
  await until("it was whole", async () => (await status(cluster.kube)).rollout?.phase === "Complete");
  return cluster;
}

const changes: Record<string, object> = { model: other, codec: { runtime: { expertCodec: "f32" } } };
for (const [name, spec] of Object.entries(changes))
  test(`another ${name} serves by a green deployment until the ranks have changed`, { timeout }, async () => {
    const { kube, stop } = await whole();
    const seen = watch(kube);
    await change(kube, spec);
    await until("the green deployment is there", () => greens(kube).length === 1);
    const [child] = greens(kube);
    assert.deepEqual([child.spec.model.servedName, child.spec.replicas, child.spec.gateway.replicas], ["moe", 3, 1]);
    assert.deepEqual([child.metadata.ownerReferences[0].name, child.metadata.labels["enodia.dev/green-of"]], ["moe", "moe"]);
    await until("the Service leads to it", () => leadsTo(kube) === child.metadata.name);
    assert.equal(pods(kube).some(isOther), false, "the ranks wait for the last to hear of it");
    await until("the ranks change", () => pods(kube).every(isOther));
    const meanwhile = await status(kube);
    assert.equal(conditionOf(meanwhile, "Available").status, "True");
    assert.equal(meanwhile.operation.type, "Roll");
    await until("all is over", over(kube, true));
    assert.deepEqual([seen.dips, seen.most, seen.mixed, leadsTo(kube)], [[], 1, 0, "moe"]);
    const { history, rollout } = await status(kube);
    assert.deepEqual([history[0].type, history[0].result, rollout.phase, rollout.stableRevision], ["Roll", "Done", "Complete", 2]);
    await stop();
  });

test("a model whose ranks crash is rolled back, and no rank that serves has gone for it", { timeout }, async () => {
  const { kube, stop } = await whole((pod) => (isOther(pod) ? crashing : undefined));
  const were = pods(kube).map(({ metadata }) => metadata.uid);
  const seen = watch(kube);
  await change(kube, other);
  await until("it is rolled back", async () => (await status(kube)).rollout?.phase === "RolledBack" && greens(kube).length === 0);
  await until("all is over", async () => (await status(kube)).operation === undefined);
  const { rollout, history, conditions } = await status(kube);
  assert.deepEqual([rollout.rolledBack.reason, rollout.rolledBack.fromRevision, rollout.rolledBack.toRevision], ["Crashing", 0, 1]);
  assert.equal(history[0].result, "RolledBack");
  assert.match(
    conditionOf({ conditions }, "SpecAccepted").message,
    /green deployment tried, was rolled back to revision 1: Crashing: pod moe-/,
  );
  assert.deepEqual([pods(kube).map(({ metadata }) => metadata.uid), [...seen.led], seen.most], [were, ["moe"], 1]);
  await stop();
});

/** Each look finds that many more tokens, of so many microseconds each. */
function growing(microsOf: (name: string) => number) {
  let looks = 0;
  return (name: string) => {
    looks += 1;
    return { requests: looks, failed: 0, gaps: looks, gapMicros: looks * microsOf(name) };
  };
}
const analysis = { bake: "1s", latencyPercent: 150, minRequests: 5 };

test("another model serves beside the ranks as a canary first, with its share of the gateways", { timeout }, async () => {
  const { kube, stop, operator } = await whole();
  await change(kube, { replicas: 3, gateway: { replicas: 3 } });
  await until("it has its gateways", () => ready(kube, ref.name) === 3);
  const seen = watch(kube);
  await change(kube, { ...other, rolloutStrategy: { canary: { ranks: 1, analysis } } });
  await until("it bakes", async () => (await status(kube)).rollout?.phase === "Baking");
  const [child] = greens(kube);
  assert.deepEqual(selector(kube), { "enodia.dev/component": "gateway", "enodia.dev/front": "moe" });
  assert.equal(child.spec.gateway.replicas, 1, "one of three ranks is one of three gateways");
  assert.equal((await status(kube)).operation.phase, "Baking");
  const same = growing(() => 1_000);
  const woken = setInterval(() => operator.rebalance.serves(same), 200);
  await until("the Service leads to it", () => leadsTo(kube) === child.metadata.name);
  clearInterval(woken);
  assert.equal(greens(kube)[0]?.spec.gateway.replicas, 3);
  await until("all is over", over(kube, true));
  assert.deepEqual([seen.dips, seen.most, seen.mixed, leadsTo(kube)], [[], 1, 0, "moe"]);
  await stop();
});

test("a model that is slow as a canary is rolled back, and no rank that serves has gone for it", { timeout }, async () => {
  const { kube, stop, operator } = await whole();
  const were = pods(kube).map(({ metadata }) => metadata.uid);
  const seen = watch(kube);
  await change(kube, { ...other, rolloutStrategy: { canary: { analysis: { ...analysis, bake: "1h" } } } });
  await until("it bakes", async () => (await status(kube)).rollout?.phase === "Baking");
  const slow = growing((name) => (name === ref.name ? 1_000 : 2_000));
  const woken = setInterval(() => operator.rebalance.serves(slow), 200);
  await until("it is rolled back", async () => (await status(kube)).rollout?.phase === "RolledBack" && greens(kube).length === 0);
  clearInterval(woken);
  const { rollout } = await status(kube);
  assert.equal(rollout.rolledBack.reason, "LatencyExceeded");
  assert.match(rollout.rolledBack.message, /200\.0%, at most 150% are allowed/);
  assert.deepEqual([pods(kube).map(({ metadata }) => metadata.uid), [...seen.led], seen.dips], [were, ["moe", "both"], []]);
  await stop();
});

test("where a green deployment finds no room in its time, all ranks stop before others start", { timeout }, async () => {
  const reason = { type: "PodScheduled", status: "False", reason: "Unschedulable", message: "0/3 nodes are available" };
  const pending = { phase: "Pending", conditions: [reason] };
  const { kube, stop } = await whole((pod) => (pod.metadata.labels["enodia.dev/deployment"] === "moe" ? undefined : pending));
  const seen = watch(kube);
  await change(kube, { ...other, rolloutStrategy: { progressDeadline: "2s" } });
  await until("the other model serves", over(kube, true));
  assert.match([...seen.said].join("\n"), /no capacity for green deployment moe-.*Unschedulable/);
  assert.equal((await status(kube)).rollout.rolledBack, undefined);
  await stop();
});

test("a change that is paused has no green deployment, and one when it is let go", { timeout }, async () => {
  const { kube, stop } = await whole();
  const seen = watch(kube);
  await change(kube, { ...other, rolloutStrategy: { paused: true } });
  await until("it is held", async () => (await status(kube)).rollout?.phase === "Paused");
  assert.equal(seen.most, 0);
  await change(kube, { rolloutStrategy: { paused: false } });
  await until("all is over", over(kube, true));
  assert.deepEqual([seen.dips, seen.most, seen.mixed, leadsTo(kube)], [[], 1, 0, "moe"]);
  await stop();
});

test("a strategy without a surge has no green deployment", { timeout }, async () => {
  const { kube, stop } = await whole();
  const seen = watch(kube);
  await change(kube, { ...other, rolloutStrategy: { maxSurge: 0, maxUnavailable: 1 } });
  await until("the other model serves", over(kube, true));
  assert.equal(seen.most, 0);
  await stop();
});

test("a spec that is rolled back, and one that changes again, leave one green deployment at most", { timeout }, async () => {
  const never = { phase: "Running", conditions: [{ type: "Ready", status: "False" }] };
  const { kube, stop } = await whole((pod) => (envOf(pod, "ENODIA_MODEL_PATH") === "/models/slow" ? never : undefined));
  const seen = watch(kube);
  await change(kube, { model: { uri: "pvc://models/slow" } });
  await until("a green deployment is there", () => greens(kube).length === 1);
  const [{ metadata: first }] = greens(kube);
  await change(kube, other);
  await until("it is another", () => greens(kube).some(({ metadata }) => metadata.name !== first.name));
  await until("the other model serves", over(kube, true));
  assert.deepEqual([seen.dips, seen.most, seen.mixed], [[], 1, 0]);
  await stop();
});

/** Writes with which each life finds out what is there, and those of which it then dies before another. */
const [firstWrites, otherWrites] = [8, 37];

test("an operator that is killed again and again goes on where it was", { timeout: 240_000 }, async () => {
  const { kube, life, operator } = await whole();
  await operator.stop();
  const seen = watch(kube);
  await change(kube, other);
  let [writes, lives, aheadMs, dead] = [0, 0, 0, false];
  kube.onWrite = (_verb, resource) => {
    seen.look();
    if (resource.kind === "Event") return;
    writes += 1;
    if (!dead && writes <= firstWrites + ((lives * 7) % otherWrites)) return;
    dead = true;
    throw new AppError("killed", { code: "Unavailable" });
  };
  const done = over(kube, true);
  while (!(await done())) {
    [dead, writes] = [false, 0];
    lives += 1;
    assert.ok(lives < 200, "it comes to an end");
    const next = await startOperator(kube, { now: () => new Date(Date.now() + aheadMs) });
    let quiet = 0;
    let seenWrites = -1;
    await until("it is killed, or waits", () => {
      quiet = writes === seenWrites ? quiet + 1 : 0;
      seenWrites = writes;
      return dead || quiet > 80;
    });
    await next.stop();
    aheadMs += heardOfMs + 1_000;
  }
  assert.deepEqual([seen.dips, seen.most, seen.mixed, leadsTo(kube)], [[], 1, 0, "moe"]);
  assert.ok(lives > 5, `${lives} lives`);
  life.stop();
});
