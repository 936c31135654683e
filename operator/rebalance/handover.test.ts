// Ranks whose pods are told to end: plans move their experts to those that stay or come, and no expert is without a host for a moment.
import assert from "node:assert/strict";
import { test } from "node:test";
import { asOwner } from "../../test/sim/clock.ts";
import type { SimCluster } from "../../test/sim/cluster.ts";
import { converged, still } from "../../test/sim/converged.ts";

const graceMs = 75_000;
/** Two ranks have room for two thirds of the experts, three for all. */
const full = { budgetBytes: 1_300 };

/** SIGTERM; returns the time after which the process ended, undefined before. */
function terminate(sim: SimCluster, rank: number): () => number | undefined {
  const worker = sim.worker(rank);
  const { owner, plane } = worker.process ?? assert.fail("it runs");
  const started = sim.clock.now();
  let ended: number | undefined;
  const end = () => {
    ended = sim.clock.now() - started;
    worker.crash(undefined);
  };
  // From within virtual time, which is the process's only while it runs.
  asOwner(owner, () => sim.clock.after(0, () => void plane.leaving.handOver(graceMs).then(end)));
  return () => ended;
}

/** Runs until then; true when it came, and fails when an expert was without a host meanwhile. */
async function hostedUntil(sim: SimCluster, ms: number, then: () => boolean): Promise<boolean> {
  return sim.clock.run(ms, () => {
    assert.equal(sim.loop?.view()?.unhostedExperts ?? 0, 0);
    return then();
  });
}
const named = (sim: SimCluster, rank: number) => sim.plan()?.layers.some((layer) => layer.hosts.some((hosts) => hosts.includes(rank)));

test("a rank that only its own process says is going hands its experts over and ends long before its time is over", async (t) => {
  const sim = await converged(t, { spec: still });
  const ended = terminate(sim, 1);
  assert.ok(await hostedUntil(sim, graceMs, () => ended() !== undefined));
  assert.ok((ended() ?? graceMs) < 10_000, `${ended()} ms`);
  assert.equal(named(sim, 1), false);
});

test("where the others have no room it serves on until its replacement has taken its experts", async (t) => {
  const sim = await converged(t, { spec: still, shape: full });
  const ended = terminate(sim, 1);
  assert.ok(await hostedUntil(sim, 20_000, () => sim.loop?.view()?.drains[0]?.phase === "Blocked"));
  await hostedUntil(sim, 5_000, () => false);
  assert.equal(ended(), undefined);
  sim.addPod(3);
  sim.refresh();
  assert.ok(await hostedUntil(sim, graceMs, () => ended() !== undefined));
  assert.ok((ended() ?? graceMs) < 40_000, `${ended()} ms`);
  assert.deepEqual([named(sim, 1), named(sim, 3)], [false, true]);
});

test("two ranks at once, and an operator that dies at any moment of it: the next one goes on", async (t) => {
  for (let ms = 0; ms < 1_000; ms += 125) {
    const sim = await converged(t, { spec: still, seed: ms + 1, shape: full });
    for (const rank of [3, 4]) sim.addPod(rank);
    sim.refresh();
    const ended = [1, 2].map((rank) => terminate(sim, rank));
    await sim.clock.run(ms);
    sim.stopOperator();
    await sim.clock.run(3_000);
    sim.startOperator();
    const over = () => ended.every((end) => end() !== undefined);
    assert.ok(await sim.clock.run(graceMs, over), `killed after ${ms} ms`);
    for (const end of ended) assert.ok((end() ?? graceMs) < graceMs - 10_000, `killed after ${ms} ms: ended after ${end()} ms`);
    assert.deepEqual([named(sim, 1), named(sim, 2)], [false, false]);
  }
});

test("without an operator it ends when another could have led", async (t) => {
  const sim = await converged(t, { spec: still });
  sim.stopOperator();
  await sim.clock.run(1_000);
  const ended = terminate(sim, 1);
  assert.ok(await sim.clock.run(graceMs, () => ended() !== undefined));
  assert.ok((ended() ?? 0) >= 15_000 && (ended() ?? graceMs) < 17_000, `${ended()} ms`);
});
