import assert from "node:assert/strict";
import { test } from "node:test";
import { loadByWeights } from "../../runtime/placement/split.ts";
import { SimCluster } from "../../test/sim/cluster.ts";
import { converged, fast, otherTopic, skewed } from "../../test/sim/converged.ts";
import { settled } from "./intents/attempts.ts";
import type { Intent } from "./intents/intent.ts";
import { DeploymentLoop } from "./loop.ts";

test("the first plan hosts every expert once and makes every worker ready", async (t) => {
  const sim = await converged(t);
  assert.equal(sim.plan()?.epoch, 1);
  assert.ok([...sim.pods.values()].every((worker) => worker.ready));
  assert.deepEqual(sim.plan()?.layers[1]?.hosts[0], [1]);
});

test("skewed load is balanced within a minute, then nothing moves, then a topic switch is balanced again", async (t) => {
  const sim = await converged(t, { spec: fast });
  const before = sim.imbalance();
  assert.ok(before > 1.4, `starts at ${before}`);
  await sim.clock.run(60_000);
  assert.ok(sim.imbalance() <= 1.15, `ends at ${sim.imbalance()}`);
  const settled = sim.epochsWritten.length;
  await sim.clock.run(60_000);
  assert.equal(sim.epochsWritten.length, settled, "steady load moves nothing");
  sim.demand = otherTopic;
  const switched = sim.imbalance();
  assert.ok(switched > 1.2, `the switch gives ${switched}`);
  await sim.clock.run(60_000);
  assert.ok(sim.imbalance() <= 1.15, `ends at ${sim.imbalance()}`);
});

test("hecate copies what transfers hide, or what pays for them, by the times that workers measure", async () => {
  const run = async (seconds: SimCluster["load"]["seconds"]) => {
    const sim = new SimCluster({ spec: { rebalancing: { ...fast.rebalancing, policy: "hecate" } } });
    sim.demand = skewed;
    sim.load.seconds = seconds;
    sim.startOperator();
    for (const demand of [skewed, otherTopic]) {
      sim.demand = demand;
      await sim.clock.run(60_000);
    }
    assert.deepEqual(sim.faults(), []);
    const expertReplicas = sim.plan()?.layers.flatMap((layer) => layer.hosts.filter((row) => row.length > 1)).length ?? 0;
    return { imbalance: sim.imbalance(), expertReplicas };
  };
  const measured = await run({ dense: 0.2, experts: 0.5 });
  assert.ok(measured.imbalance <= 1.15 && measured.expertReplicas > 0, JSON.stringify(measured));
  const idle = await run({ dense: 0, experts: 0 });
  assert.equal(idle.expertReplicas, 0, "nothing to hide behind and nothing to save");
});

test("an intent after the one for balance acts between two windows of load", async (t) => {
  const acted: number[] = [];
  const surge: Intent = {
    ...{ kind: "surge", cost: "plan", holdsUpOthers: false, onWindow: false },
    wanted: ({ plan }) => plan !== undefined,
    make: ({ now }) => {
      acted.push(now);
      return settled;
    },
  };
  const sim = await converged(t, { lastIntents: [surge], spec: fast });
  await sim.clock.run(1_000);
  assert.equal(acted.length, 1);
  await sim.clock.run(60_000);
  assert.ok(sim.imbalance() <= 1.15, `${sim.imbalance()}`);
});

test("mode Off leaves the imbalance as it is and says why", async (t) => {
  const sim = await converged(t, { spec: { rebalancing: { ...fast.rebalancing, mode: "Off" } } });
  await sim.clock.run(60_000);
  assert.equal(sim.plan()?.epoch, 1);
  assert.ok(sim.imbalance() > 1.4);
  assert.match(sim.loop?.view()?.placementBalanced.message ?? "", /ModeOff/);
});

test("mode Recommend publishes the plan that Auto would carry out, and moves nothing", async (t) => {
  const sim = await converged(t, { spec: { rebalancing: { ...fast.rebalancing, mode: "Recommend" } } });
  assert.ok(await sim.clock.run(60_000, () => sim.stored?.status.phase === "Recommended"));
  const recommended = sim.stored?.status;
  assert.equal(sim.plan()?.epoch, 1);
  assert.match(recommended?.recommended?.[0] ?? "", /^\d+\/\d+ -> \d+$/);
  assert.equal(recommended?.recommended?.length, recommended?.predicted?.moves);
  assert.ok((recommended?.predicted?.imbalancePercent ?? 1000) < (recommended?.measured?.imbalancePercent ?? 0));
  sim.respec({ rebalancing: fast.rebalancing });
  assert.ok(await sim.clock.run(60_000, () => sim.stored?.status.phase === "Committed" && (sim.plan()?.epoch ?? 0) > 1));
  assert.equal(sim.stored?.status.recommended, undefined);
});

test("the placement's status names every rank's state, memory and load, and what the planner decided", async (t) => {
  const sim = await converged(t, { spec: fast });
  assert.ok(await sim.clock.run(60_000, () => (sim.plan()?.epoch ?? 0) > 1 && sim.stored?.status.decision?.reason === "Balanced"));
  await sim.clock.run(30_000);
  const status = sim.stored?.status;
  assert.equal(status?.phase, "Committed");
  assert.ok((status?.measured?.imbalancePercent ?? 0) >= 100);
  const ranks = status?.ranks ?? [];
  assert.deepEqual(
    ranks.map(({ rank, state }) => [rank, state]),
    [0, 1, 2].map((rank) => [rank, "active"]),
  );
  const mean = ranks.reduce((total, { loadPercent }) => total + (loadPercent ?? 0), 0) / ranks.length;
  assert.ok(Math.abs(mean - 100) <= 1, `the ranks' loads are ${mean}% on average`);
  assert.ok(ranks.every(({ hostedBytes, budgetBytes }) => hostedBytes !== undefined && hostedBytes <= (budgetBytes ?? 0)));
});

/** Rows of each rank in all layers, under the stored plan. */
function rowsOf(sim: SimCluster): number[] {
  const rows = [0, 0, 0];
  for (const [l, layer] of (sim.plan()?.layers ?? []).entries())
    for (const [rank, load] of loadByWeights(sim.demand(l), layer.hosts, layer.weights, 3).entries()) rows[rank] = (rows[rank] ?? 0) + load;
  return rows;
}

test("a rank that turns out slow gets less work, for good: also a new leader leaves it so", async (t) => {
  const sim = await converged(t, { spec: fast });
  sim.load.rates = { speed: (rank) => (rank === 2 ? 0.5 : 1), noise: 0.1 };
  await sim.clock.run(180_000);
  const [a, b, slow] = rowsOf(sim) as [number, number, number];
  assert.ok(slow / ((a + b) / 2) < 0.62, `${slow} rows beside ${a} and ${b}`);
  const speeds = sim.stored?.status.ranks?.map(({ speedPercent }) => speedPercent ?? 0) ?? [];
  assert.ok(Math.abs((speeds[2] ?? 0) - 50) <= 8 && speeds[0] === 100 && speeds[1] === 100, `${speeds}`);
  const settled = sim.epochsWritten.length;
  await sim.clock.run(120_000);
  assert.equal(sim.epochsWritten.length, settled, "steady speeds move nothing");
  for (let ms = 0; ms < 20_000; ms += 4_000) {
    sim.troubles.cuts.add("-2:2");
    await sim.clock.run(3_000);
    sim.troubles.cuts.clear();
    await sim.clock.run(1_000);
  }
  await sim.clock.run(60_000);
  assert.equal(sim.epochsWritten.length, settled, "a stream that is down for a moment says nothing of the rank's speed");
  sim.stopOperator();
  await sim.clock.run(1_000);
  sim.startOperator();
  await sim.clock.run(120_000);
  assert.equal(sim.epochsWritten.length, settled, "a new leader knows them");
});

test("equal ranks whose measurements are noisy move nothing", async (t) => {
  const sim = await converged(t, { spec: fast });
  await sim.clock.run(60_000);
  const settled = sim.epochsWritten.length;
  sim.load.rates = { speed: () => 1, noise: 0.3 };
  await sim.clock.run(300_000);
  assert.equal(sim.epochsWritten.length, settled);
});

const expertReplicasOf = (sim: SimCluster): number[] =>
  (sim.plan()?.layers ?? []).flatMap((layer) => layer.hosts.map((hosts) => new Set(hosts).size));

test("minExpertReplicas gives every expert an expert replica on another node after the first plan, keeps it while load moves, and makes it good after a loss", async (t) => {
  const sim = await converged(t, { ranks: 4, spec: { ...fast, experts: { minExpertReplicas: 2 } } });
  assert.ok(await sim.clock.run(30_000, () => sim.loop?.view()?.expertsAtRisk === 0));
  assert.ok(expertReplicasOf(sim).every((expertReplicas) => expertReplicas >= 2));
  const starts = sim.events.filter((event) => event.reason === "RebalanceStarted");
  assert.match(starts[0]?.message ?? "", /32 expert replicas, so that experts have 2 on different nodes/);
  await sim.clock.run(60_000);
  assert.ok(sim.imbalance() <= 1.15, `${sim.imbalance()}`);
  assert.ok(expertReplicasOf(sim).every((expertReplicas) => expertReplicas >= 2));
  sim.demand = otherTopic;
  let unhosted = 0;
  sim.worker(2).crash(undefined);
  await sim.clock.run(60_000, () => {
    unhosted = Math.max(unhosted, sim.loop?.view()?.unhostedExperts ?? 0);
    return false;
  });
  assert.equal(unhosted, 0, "no expert was without a live expert replica at any time");
  assert.equal(sim.loop?.view()?.expertsAtRisk, 0);
});

test("raising minExpertReplicas adds expert replicas, and what memory does not hold is said once", async (t) => {
  const sim = await converged(t, { ranks: 4, shape: { budgetBytes: 1300 } });
  assert.equal(sim.loop?.view()?.expertsAtRisk, 32);
  sim.respec({ experts: { minExpertReplicas: 2 } });
  await sim.clock.run(60_000);
  const missing = sim.events.filter((event) => event.reason === "ExpertReplicasMissing");
  assert.equal(missing.length, 1);
  assert.match(missing[0]?.message ?? "", /16 experts have fewer than 2 expert replicas .* raise experts.memoryPerRank or replicas/);
  assert.equal(sim.loop?.view()?.expertsAtRisk, 16);
});

test("a killed process is loaded again from its plan, or its experts move to others", async (t) => {
  const sim = await converged(t);
  sim.worker(1).crash(2_000);
  assert.ok(await sim.clock.run(15_000, () => sim.worker(1).alive && sim.converged()));
  assert.equal(sim.plan()?.epoch, 1, "a quick restart needs no plan");
  sim.worker(1).crash(undefined);
  assert.ok(await sim.clock.run(20_000, () => (sim.plan()?.epoch ?? 0) > 1 && sim.converged()));
  assert.ok(sim.plan()?.layers.every((layer) => layer.hosts.every((hosts) => !hosts.includes(1))));
  const connected = sim.loop?.view()?.members.map((member) => [member.rank, member.connected]);
  assert.deepEqual(Object.fromEntries(connected ?? []), { 0: true, 1: false, 2: true });
});

test("while a restarted process loads, what is said to have no live expert replica is what no process holds", async (t) => {
  const sim = await converged(t, { spec: { rebalancing: { mode: "Off" } } });
  sim.troubles.slow.set(1, 200);
  const heldBy = (layer: number, expert: number) => [...sim.pods.values()].some((w) => w.alive && w.memory.has(w.key(layer, expert)));
  const missing = () => Array.from({ length: 32 }, (_, i) => heldBy(i >> 3, i % 8)).filter((held) => !held).length;
  sim.worker(1).crash(1_000);
  let seen = 0;
  let loading = 0;
  const settled = await sim.clock.run(30_000, () => {
    const view = sim.loop?.view();
    seen = Math.max(seen, view?.unhostedExperts ?? 0);
    if (view?.loadingRanks.length) loading++;
    // Experts that the process has loaded since its last report, a second ago at most, are not known yet.
    assert.ok((view?.unhostedExperts ?? 0) >= missing() || !sim.worker(1).alive, `${view?.unhostedExperts} of ${missing()}`);
    return sim.worker(1).alive && sim.converged();
  });
  assert.ok(settled);
  await sim.clock.run(1_000);
  assert.ok(seen > 5 && loading > 5, `${seen} experts at most, seen loading ${loading} times`);
  assert.equal(sim.loop?.view()?.unhostedExperts, 0);
  assert.deepEqual(sim.loop?.view()?.loadingRanks, []);
  assert.equal(sim.plan()?.epoch, 1, "nothing was planned for it");
});

test("scale up fills the new rank, scale down empties the leaving one before it may go", async (t) => {
  const sim = await converged(t, { spec: fast });
  sim.scale(4);
  sim.addPod(3);
  sim.refresh();
  assert.ok(await sim.clock.run(30_000, () => sim.worker(3).memory.size > 0 && sim.converged()));
  sim.scale(3);
  sim.leaving = [{ rank: 3, podUid: sim.worker(3).podUid, reason: "Shrink" }];
  sim.refresh();
  assert.ok(await sim.clock.run(90_000, () => sim.loop?.view()?.drains[0]?.phase === "Drained"), JSON.stringify(sim.loop?.view()?.drains));
  assert.ok(sim.plan()?.layers.every((layer) => layer.hosts.every((hosts) => !hosts.includes(3))));
});

test("a shrink that does not fit is refused with the remedy", async (t) => {
  const sim = await converged(t, { shape: { budgetBytes: 1300 } });
  sim.leaving = [{ rank: 2, podUid: sim.worker(2).podUid, reason: "Shrink" }];
  sim.refresh();
  assert.ok(await sim.clock.run(20_000, () => sim.loop?.view()?.drains[0]?.phase === "Blocked"));
  assert.match(sim.loop?.view()?.drains[0]?.message ?? "", /memoryPerRank/);
});

test("the operator's certificate is asked for every minute: the CA may have changed", async (t) => {
  const sim = await converged(t);
  const before = sim.identityAsks;
  await sim.clock.run(125_000);
  assert.equal(sim.identityAsks - before, 2);
});

const withoutNats: Record<string, { readonly spec?: object; readonly nats?: object; readonly cause: RegExp }> = {
  "NATS is away": { nats: { status: { connected: false, reason: "Disconnected" } }, cause: /NATS: Disconnected/ },
  "no NATS server is named": { spec: { telemetry: {} }, cause: /no NATS server is named, .*credentialsSecretRef is missing/ },
  "NATS takes load and brings none": { nats: { silent: true }, cause: /NATS brings nothing of them/ },
};
for (const [what, { spec, nats, cause }] of Object.entries(withoutNats))
  test(`load comes on Control where ${what}: experts move by it, and the condition says so`, async (t) => {
    const sim = await converged(t, { spec: { ...fast, ...spec } });
    Object.assign(sim.nats, nats);
    const fresh = () => sim.loop?.view()?.telemetryFresh;
    assert.ok(await sim.clock.run(60_000, () => fresh()?.reason === "FreshOnControl" && (sim.plan()?.epoch ?? 0) > 1));
    assert.match(fresh()?.message ?? "", cause);
    await sim.clock.run(60_000);
    assert.equal(fresh()?.reason, "FreshOnControl", "and it stays so");
  });

test("where no load comes nothing moves for balance, yet a loss is repaired", async (t) => {
  const sim = await converged(t, { spec: fast });
  sim.silent = true;
  await sim.clock.run(60_000);
  assert.equal(sim.plan()?.epoch, 1);
  assert.equal(sim.loop?.view()?.telemetryFresh.reason, "Stale");
  sim.nats.status.connected = false;
  await sim.clock.run(2_000);
  assert.equal(sim.loop?.view()?.telemetryFresh.reason, "NATSUnavailable");
  sim.worker(0).crash(undefined);
  assert.ok(await sim.clock.run(20_000, () => (sim.plan()?.epoch ?? 0) > 1 && sim.converged()));
});

test("the age of load grows while no window closes, and without a NATS server it begins with a first message", async (t) => {
  const sim = await converged(t, { spec: fast });
  await sim.clock.run(20_000);
  assert.ok((sim.loop?.load().ageMs ?? Number.NaN) <= 2_000, `${sim.loop?.load().ageMs}`);
  sim.silent = true;
  await sim.clock.run(60_000);
  assert.ok((sim.loop?.load().ageMs ?? 0) >= 58_000, `${sim.loop?.load().ageMs}`);
  const old = new SimCluster({ spec: { ...fast, telemetry: {} } });
  old.silent = true; // as a release does that reports load on NATS alone
  old.startOperator();
  assert.ok(await old.clock.run(60_000, () => old.converged()));
  assert.equal(old.loop?.load().ageMs, undefined);
  assert.equal(old.loop?.view()?.telemetryFresh.reason, "NotConfigured");
  assert.match(old.loop?.view()?.telemetryFresh.message ?? "", /spec\.telemetry\.nats\.credentialsSecretRef is missing/);
});

test("an operator killed at any moment of a rebalance leaves a plan that the next one finishes", async (t) => {
  for (let ms = 0; ms < 400; ms += 20) {
    const sim = await converged(t, { spec: fast, seed: ms + 1, shape: { budgetBytes: 1_600 } });
    const before = sim.plan()?.epoch ?? 0;
    assert.ok(await sim.clock.run(60_000, () => (sim.plan()?.epoch ?? 0) > before));
    await sim.clock.run(ms);
    sim.stopOperator();
    await sim.clock.run(3_000);
    sim.startOperator();
    assert.ok(await sim.clock.run(60_000, () => sim.converged()), `killed ${ms} ms into the plan`);
    assert.doesNotMatch(sim.stored?.spec.reason ?? "", /settled after/, `killed ${ms} ms into the plan, every layer is finished`);
  }
});

test("a new operator that reaches one rank later than the others does not cut it off from them", async (t) => {
  const sim = await converged(t);
  const members = () => [...sim.pods.values()].map((worker) => worker.membership?.members.length);
  sim.stopOperator();
  const before = sim.worker(0).membership?.version ?? 0;
  sim.troubles.cuts.add("-2:1");
  sim.startOperator();
  for (let ms = 0; ms < 2_000; ms += 20) {
    await sim.clock.run(20);
    assert.deepEqual(members(), [3, 3, 3], `${ms} ms after the takeover`);
  }
  sim.troubles.cuts.clear();
  assert.ok(await sim.clock.run(2_000, () => (sim.worker(0).membership?.version ?? 0) > before), "then it speaks");
  assert.deepEqual(members(), [3, 3, 3]);
});

test("a new operator does not wait for a rank that is gone", async (t) => {
  const sim = await converged(t);
  sim.stopOperator();
  const before = sim.worker(0).membership?.version ?? 0;
  sim.troubles.cuts.add("-2:1");
  sim.startOperator();
  assert.ok(await sim.clock.run(7_000, () => (sim.worker(0).membership?.version ?? 0) > before));
});

const minuteMs = 60_000;

test("an idle deployment is looked at once a second, one with a rank that leaves many times", async (t) => {
  const { mock } = t.mock.method(DeploymentLoop.prototype, "tick");
  const sim = new SimCluster({ ranks: 3 });
  sim.demand = () => new Array<number>(8).fill(200);
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()));
  await sim.clock.run(minuteMs); // what was begun ends
  mock.resetCalls();
  await sim.clock.run(minuteMs);
  // Windows end and their messages come meanwhile, which ask for looks of their own.
  assert.ok(mock.callCount() >= 55 && mock.callCount() <= 80, `${mock.callCount()} looks in an idle minute`);
  mock.resetCalls();
  sim.kube.leaving = [{ rank: 2, podUid: sim.worker(2).podUid, reason: "Shrink" }];
  sim.refresh();
  await sim.clock.run(5_000);
  assert.ok(mock.callCount() >= 15, `${mock.callCount()} looks in 5 s of a shrink`);
  assert.deepEqual(sim.faults(), []);
});
