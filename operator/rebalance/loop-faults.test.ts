// The loop among things that go wrong around it, in virtual time: another model, a store or a worker that does not answer, a plan that
// fails, an object that is gone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import type { SimCluster } from "../../test/sim/cluster.ts";
import { converged, fast, still } from "../../test/sim/converged.ts";
import { inlinePlanner } from "./intents/planner-thread.ts";
import { Session } from "./links/session.ts";
import { DeploymentLoop } from "./loop.ts";
import type { StoredPlacement } from "./ports.ts";
import { fromSpec, nextPlan } from "./rollout/plan-object.ts";
import { defaultLimits } from "./rollout/protocol-types.ts";

function replaceAllPods(sim: SimCluster, ranks: number): void {
  for (const worker of sim.pods.values()) worker.crash(undefined);
  sim.pods.clear();
  sim.refresh();
  for (let rank = 0; rank < ranks; rank++) sim.addPod(rank);
}

async function suspendAndResume(sim: SimCluster, whileSuspended: () => void): Promise<void> {
  sim.respec({ ...fast, suspend: true });
  await sim.clock.run(1_000);
  whileSuspended();
  replaceAllPods(sim, 3);
  await sim.clock.run(10_000);
  sim.respec(fast);
}

test("a codec that changes while suspended gives a first plan for the new sizes", async (t) => {
  const sim = await converged(t, { spec: fast });
  await suspendAndResume(sim, () => Object.assign(sim, { engineInfo: { codec: "q4_0", expertResidentBytes: 150 } }));
  assert.ok(await sim.clock.run(30_000, () => sim.stored?.spec.reason?.startsWith("first plan") === true && (sim.plan()?.epoch ?? 0) > 1));
  assert.ok(await sim.clock.run(30_000, () => sim.converged()));
  assert.equal(sim.loop?.view()?.model?.expertBytes, 32 * 150);
});

test("a model that changes while suspended is planned for, and is no mismatch", async (t) => {
  const sim = await converged(t, { spec: fast });
  const before = sim.plan()?.epoch ?? 0;
  await suspendAndResume(sim, () => Object.assign(sim, { engineInfo: { modelDigest: "sha256:other" } }));
  assert.ok(await sim.clock.run(30_000, () => sim.stored?.spec.modelDigest === "sha256:other"));
  assert.ok((sim.plan()?.epoch ?? 0) > before);
  assert.equal(sim.loop?.view()?.modelAvailable.reason, "Resolved");
});

test("another model is not taken up while a plan of the old one is being written", async (t) => {
  const sim = await converged(t, { spec: fast });
  sim.kube.writeMs = 20_000;
  sim.worker(1).crash(undefined);
  assert.ok(await sim.clock.run(15_000, () => sim.events.some(({ reason }) => reason === "RebalanceStarted")));
  sim.engineInfo = { modelDigest: "sha256:other" };
  replaceAllPods(sim, 3);
  sim.refresh();
  await sim.clock.run(10_000);
  assert.deepEqual(sim.loop?.view()?.digestMismatch, [0, 1, 2]);
  sim.kube.writeMs = 1;
  assert.ok(await sim.clock.run(300_000, () => sim.stored?.spec.modelDigest === "sha256:other"));
  assert.deepEqual(sim.loop?.view()?.digestMismatch, []);
});

test("one pod with another model does not take the plan from the others", async (t) => {
  const sim = await converged(t, { spec: { ...fast, replicas: 4 } });
  sim.engineInfo = { modelDigest: "sha256:other" };
  sim.addPod(3);
  sim.refresh();
  await sim.clock.run(30_000);
  assert.deepEqual(sim.loop?.view()?.digestMismatch, [3]);
  assert.notEqual(sim.stored?.spec.modelDigest, "sha256:other");
});

test("a worker that falls silent is lost 5 s after its last word, not after that was noticed", async (t) => {
  const sim = await converged(t, { spec: still });
  const stateOf1 = () => sim.worker(0).membership?.members.find(({ rank }) => rank === 1)?.state;
  const silentAt = sim.clock.now();
  sim.worker(1).stalled = true;
  assert.ok(await sim.clock.run(15_000, () => stateOf1() === "lost"));
  const lostMs = sim.clock.now() - silentAt;
  assert.ok(lostMs > 4_000 && lostMs <= 5_500, `lost after ${lostMs} ms`);
  const atRank1 = () => sim.plan()?.layers.some(({ hosts }) => hosts.some((row) => row.includes(1)));
  assert.ok(await sim.clock.run(2_000, () => atRank1() === false), "its experts get new primaries");
});

for (const [what, stale] of [
  ["of another model", (sim: SimCluster) => Object.assign(sim.stored?.spec ?? {}, { modelDigest: "sha256:old" })],
  ["for smaller experts", (sim: SimCluster) => Object.assign(sim, { engineInfo: { expertResidentBytes: 200 } })],
] as const) {
  test(`a new operator finds a stored plan ${what} that nobody serves, and makes a first one with the next epoch`, async (t) => {
    const sim = await converged(t, { spec: { ...fast, experts: { minExpertReplicas: 2 } } });
    assert.ok(await sim.clock.run(30_000, () => sim.loop?.view()?.expertsAtRisk === 0));
    const before = sim.plan()?.epoch ?? 0;
    sim.stopOperator();
    stale(sim);
    sim.respec(fast);
    replaceAllPods(sim, 3);
    const push = t.mock.method(Session.prototype, "pushPlan");
    sim.startOperator();
    assert.ok(await sim.clock.run(30_000, () => (sim.plan()?.epoch ?? 0) === before + 1 && sim.converged()));
    assert.match(sim.stored?.spec.reason ?? "", /^first plan/);
    const pushed = new Set(push.mock.calls.map(({ arguments: [plan] }) => plan.epoch));
    assert.deepEqual([...pushed], [before + 1], "nobody is told the old plan");
  });
}

test("a plan waits for a rank that was silent when it began and came back while it was under way", async (t) => {
  const sim = await converged(t, { spec: still });
  sim.worker(2).stalled = true;
  await sim.clock.run(3_500);
  sim.troubles.slow.set(1, 400);
  sim.leaving = [{ rank: 0, podUid: sim.worker(0).podUid, reason: "Shrink" }];
  sim.refresh();
  assert.ok(await sim.clock.run(1_400, () => sim.loop?.view()?.placement?.phase === "Preparing"));
  sim.worker(2).stalled = false;
  await sim.clock.run(14_000);
  assert.deepEqual([sim.loop?.view()?.placement?.phase, sim.worker(2).state.epoch], ["Preparing", 1]);
  assert.ok(await sim.clock.run(60_000, () => sim.worker(2).state.epoch > 1));
});

test("a repair whose plan could not be written is made all the same", async (t) => {
  const sim = await converged(t, { spec: still });
  sim.kube.failWrites = 1;
  sim.worker(1).crash(undefined);
  assert.ok(await sim.clock.run(30_000, () => (sim.plan()?.epoch ?? 0) > 1 && sim.converged()));
  assert.ok(sim.plan()?.layers.every((layer) => layer.hosts.every((hosts) => !hosts.includes(1))));
});

test("a worker that restarts while a plan is being written does not hold it up", async (t) => {
  const sim = await converged(t, { spec: still });
  sim.kube.writeMs = 4_000;
  sim.leaving = [{ rank: 2, podUid: sim.worker(2).podUid, reason: "Shrink" }];
  sim.refresh();
  assert.ok(await sim.clock.run(10_000, () => sim.events.some(({ reason }) => reason === "RebalanceStarted")));
  sim.worker(1).crash(500);
  assert.ok(await sim.clock.run(20_000, () => sim.loop?.view()?.drains[0]?.phase === "Drained"));
  assert.ok(await sim.clock.run(10_000, () => sim.converged()));
});

for (const [what, lose] of [
  ["lost", (sim: SimCluster) => sim.worker(2).crash(undefined)],
  ["leaving", (sim: SimCluster) => Object.assign(sim, { leaving: [{ rank: 2, podUid: sim.worker(2).podUid, reason: "Shrink" }] })],
] as const) {
  test(`the experts of a rank that is ${what} all find a primary, also where fewer fit beside the old expert replicas at once`, async (t) => {
    const sim = await converged(t, { shape: { layers: 1, experts: 8, bytes: 100, budgetBytes: 600 }, spec: still });
    // Two ranks full of each other's expert replicas: of rank 2's three experts each can take one beside what it holds.
    sim.stopOperator();
    const [both, last] = [[0, 1], [2]];
    const hosts = Array.from({ length: 8 }, (_, e) => (e < 5 ? both : last));
    const weights = hosts.map((row) => (row.length > 1 ? [500, 500] : [1000]));
    const stored = sim.stored as StoredPlacement;
    const { spec } = nextPlan(fromSpec(stored.spec), [{ hosts, weights }], new Set([0]), { ...fromSpec(stored.spec), epoch: 2 });
    sim.stored = { ...stored, spec: { ...spec, ranks: stored.spec.ranks } };
    sim.startOperator();
    assert.ok(await sim.clock.run(30_000, () => sim.plan()?.layers[0]?.hosts[0]?.length === 2 && sim.converged()));
    lose(sim);
    sim.refresh();
    const primary = (): boolean => sim.plan()?.layers[0]?.hosts.every((row) => row.length > 0 && !row.includes(2)) === true;
    assert.ok(await sim.clock.run(60_000, () => primary() && sim.converged()), JSON.stringify(sim.plan()?.layers[0]?.hosts));
    assert.ok(sim.events.every(({ reason }) => reason !== "ExpertsUnhosted"));
  });
}

test("a rank that was lost, came back and dies for good is repaired again", async (t) => {
  const sim = await converged(t, { spec: still });
  const hosts1 = () => sim.plan()?.layers.some((layer) => layer.hosts.some((hosts) => hosts.includes(1)));
  sim.worker(1).stalled = true;
  assert.ok(await sim.clock.run(20_000, () => !hosts1() && sim.converged()));
  sim.worker(1).stalled = false;
  assert.ok(await sim.clock.run(20_000, () => hosts1() === true && sim.converged()));
  sim.worker(1).crash(undefined);
  assert.ok(await sim.clock.run(20_000, () => !hosts1() && sim.converged()));
});

test("a drain that cannot be carried out is tried less and less often", async (t) => {
  const sim = await converged(t, { ranks: 3, spec: still, shape: { layers: 1, experts: 4 } });
  sim.troubles.corruptNext = 1e9;
  sim.leaving = [{ rank: 2, podUid: sim.worker(2).podUid, reason: "Shrink" }];
  sim.refresh();
  await sim.clock.run(60_000);
  const aborted = sim.events.filter(({ reason }) => reason === "RebalanceAborted").length;
  assert.ok(aborted >= 3 && aborted <= 5, `${aborted} attempts in a minute`);
  sim.troubles.corruptNext = 0;
  assert.ok(await sim.clock.run(60_000, () => sim.loop?.view()?.drains[0]?.phase === "Drained"));
});

test("layers that a plan gave up are stored as something newer than what was given up", async (t) => {
  const sim = await converged(t);
  sim.troubles.corruptNext = 1e9;
  sim.worker(1).crash(undefined);
  assert.ok(await sim.clock.run(60_000, () => /^settled after/.test(sim.stored?.spec.reason ?? "")));
  const spec = sim.stored?.spec;
  assert.ok(
    spec?.layers.every(({ epoch }) => epoch === spec.epoch),
    JSON.stringify(spec?.layers.map(({ epoch }) => epoch)),
  );
});

test("a rank that cannot take a committed layer holds up neither the end of the plan nor what comes after", async (t) => {
  const sim = await converged(t, { spec: still });
  const { podUid } = sim.worker(2);
  const { prepare } = Session.prototype;
  t.mock.method(Session.prototype, "prepare", async function (this: Session, ...args: Parameters<typeof prepare>) {
    if (this.description?.podUid === podUid) throw new AppError("the disk is full", { code: "Unavailable" });
    return prepare.apply(this, args);
  });
  // Rank 2 receives nothing, it just has to follow.
  sim.leaving = [{ rank: 2, podUid, reason: "Shrink" }];
  sim.refresh();
  const drained = () => sim.events.find(({ message }) => message.startsWith("drain"));
  assert.ok(await sim.clock.run(1.5 * defaultLimits.releaseMs, () => drained() !== undefined));
  assert.match(drained()?.message ?? "", /layers are not released: layer \d+: ranks 2 have not committed it/);
  assert.ok(await sim.clock.run(10_000, () => sim.worker(2).state.epoch === sim.plan()?.epoch), "it takes the plan as a whole");
  assert.ok(await sim.clock.run(90_000, () => sim.loop?.view()?.drains[0]?.phase === "Drained"));
});

test("workers that do not say what they have committed are asked again before anything is concluded", async (t) => {
  const sim = await converged(t);
  sim.stopOperator();
  let asked = 0;
  const { snapshot } = Session.prototype;
  t.mock.method(Session.prototype, "snapshot", async function (this: Session) {
    if (this.description?.rank === 1 && ++asked < 3) throw new AppError("busy", { code: "Unavailable" });
    return snapshot.call(this);
  });
  sim.stored = undefined; // now only the workers know the plan
  sim.startOperator();
  assert.ok(await sim.clock.run(20_000, () => sim.stored !== undefined && sim.converged()));
  assert.equal(asked, 3);
});

test("an ExpertPlacement that is deleted by hand is made again from what workers hold", async (t) => {
  const sim = await converged(t, { spec: fast });
  assert.ok(await sim.clock.run(60_000, () => (sim.plan()?.epoch ?? 0) > 1 && sim.converged()));
  const before = sim.plan();
  sim.stored = undefined;
  assert.ok(await sim.clock.run(90_000, () => sim.stored !== undefined));
  assert.equal(sim.plan()?.epoch, (before?.epoch ?? 0) + 1);
  assert.deepEqual(
    sim.plan()?.layers.map(({ hosts }) => hosts),
    before?.layers.map(({ hosts }) => hosts),
  );
});

test("a plan for balance that takes its time does not hold up a repair", async (t) => {
  const sim = await converged(t, { spec: fast });
  let abandoned = false;
  t.mock.method(inlinePlanner, "plan", (...[, , options]: Parameters<typeof inlinePlanner.plan>) => {
    return new Promise((_, reject) => {
      options?.signal?.addEventListener("abort", () => {
        abandoned = true;
        reject(new AppError("abandoned", { code: "PlanAbandoned" }));
      });
    });
  });
  await sim.clock.run(30_000);
  sim.worker(1).crash(undefined);
  assert.ok(await sim.clock.run(15_000, () => (sim.plan()?.epoch ?? 0) > 1 && sim.converged()));
  assert.ok(abandoned);
});

test("mode Recommend keeps to the interval, and its recommendation stands meanwhile", async (t) => {
  const rebalancing = { ...fast.rebalancing, interval: "60s", mode: "Recommend" };
  const sim = await converged(t, { spec: { rebalancing } });
  const recommended = () => sim.events.filter(({ reason }) => reason === "RebalanceRecommended").length;
  assert.ok(await sim.clock.run(60_000, () => recommended() === 1));
  await sim.clock.run(50_000);
  assert.equal(recommended(), 1);
  assert.equal(sim.stored?.status.phase, "Recommended");
  assert.ok(await sim.clock.run(30_000, () => recommended() === 2));
});

test("news that comes in a burst is looked at once", async (t) => {
  const sim = await converged(t);
  const tick = t.mock.method(DeploymentLoop.prototype, "tick").mock;
  for (let ms = 0; ms < 1_000; ms += 5) {
    sim.refresh();
    await sim.clock.run(5);
  }
  assert.ok(tick.callCount() >= 9 && tick.callCount() <= 11, `${tick.callCount()} looks in a second`);
});
