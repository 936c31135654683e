import assert from "node:assert/strict";
import { test } from "node:test";
import { assumedRates, byPath } from "../../../runtime/placement/cost.ts";
import { SimCluster } from "../../../test/sim/cluster.ts";
import type { RankSpec } from "../../planner/policy.ts";
import { LoadState } from "./load-state.ts";
import { PathRates } from "./rates.ts";

const rank = (n: number, node: string, zone: string): RankSpec => ({ rank: n, speed: 1, budgetBytes: 1, zone, node, state: "active" });
const ranks = [rank(0, "a", "z0"), rank(1, "a", "z0"), rank(2, "b", "z0"), rank(3, "c", "z1")];
const MiB = 1024 * 1024;
const unlimited = Number.POSITIVE_INFINITY;

test("the rate of a path is what receivers took over the time that it took them; other paths stay assumed", () => {
  const rates = new PathRates();
  assert.deepEqual(rates.rates(unlimited, 0), assumedRates);
  rates.add(ranks, 0, [{ source: 1, bytes: 30 * MiB, seconds: 1 }], 0);
  rates.add(ranks, 3, [{ source: 0, bytes: 2 * MiB, seconds: 4 }], 0);
  rates.add(ranks, 1, [{ source: 0, bytes: 10 * MiB, seconds: 1 }], 0);
  rates.add(ranks, 2, [{ source: "store", bytes: 8 * MiB, seconds: 1 }], 0);
  assert.deepEqual(rates.rates(unlimited, 0), { ...assumedRates, node: 20 * MiB, remote: MiB / 2, store: 8 * MiB });
});

test("the limit caps every path, and another limit makes what was measured under this one void", () => {
  const rates = new PathRates();
  rates.add(ranks, 0, [{ source: 1, bytes: 30 * MiB, seconds: 1 }], 0);
  assert.deepEqual(
    rates.rates(MiB, 0),
    byPath(() => MiB),
  );
  rates.add(ranks, 0, [{ source: 1, bytes: 30 * MiB, seconds: 30 }], 0);
  assert.deepEqual(rates.rates(64 * MiB, 0).node, 64 * MiB);
});

test("what is too little, impossible, too old or of an unknown rank counts for nothing", () => {
  const rates = new PathRates();
  const taken = { source: 1, bytes: 30 * MiB, seconds: 1 };
  for (const bad of [
    { ...taken, source: 8 },
    { ...taken, bytes: 0 },
    { ...taken, seconds: 0 },
    { ...taken, seconds: Number.NaN },
    { ...taken, seconds: Infinity },
  ])
    rates.add(ranks, 0, [bad], 0);
  rates.add(ranks, 9, [taken], 0);
  rates.add(ranks, 2, [{ ...taken, bytes: 1000 }], 0);
  assert.deepEqual(rates.rates(unlimited, 0), assumedRates);
  rates.add(ranks, 0, [taken], 0);
  assert.equal(rates.rates(unlimited, 3_600_000).node, taken.bytes);
  assert.equal(rates.rates(unlimited, 3_600_001).node, assumedRates.node);
});

test("the last minutes of receiving count most", () => {
  const rates = new PathRates();
  for (let n = 0; n < 100; n++) rates.add(ranks, 0, [{ source: 1, bytes: 100 * MiB, seconds: 10 }], n);
  for (let n = 0; n < 40; n++) rates.add(ranks, 0, [{ source: 1, bytes: 20 * MiB, seconds: 10 }], n);
  const { node } = rates.rates(unlimited, 0);
  assert.ok(node >= 2 * MiB && node < 3 * MiB, `${node / MiB}`);
});

test("in a cluster the second plan is priced by what the first one's transfers were measured at", async () => {
  const bytes = 2 * MiB;
  const sim = new SimCluster({
    shape: { bytes, budgetBytes: 24 * bytes },
    spec: {
      rebalancing: { trigger: { window: "5s", minTokens: 1000 }, interval: "5s", budget: { maxTransferBytesPerSecond: "64Gi" } },
    },
  });
  const load = (turn: number) => (layer: number) => Array.from({ length: 8 }, (_, e) => 1000 * 0.55 ** ((e * turn + layer + 4) % 8) + 20);
  const seconds = async (turn: number): Promise<number> => {
    const { epoch } = sim.plan() ?? { epoch: 0 };
    sim.demand = load(turn);
    assert.ok(await sim.clock.run(90_000, () => (sim.plan()?.epoch ?? 0) > epoch && sim.converged()));
    return Number(/take ([\d.]+) s/.exec(sim.stored?.spec.reason ?? "")?.[1]);
  };
  for (let rank = 0; rank < 3; rank++) sim.troubles.slow.set(rank, 100);
  sim.demand = load(1);
  sim.startOperator();
  assert.ok(await sim.clock.run(90_000, () => sim.converged()));
  const assumed = await seconds(1);
  const measured = await seconds(3);
  // The receiver took 2 Mi in two seconds, where 200 MB/s were assumed.
  assert.ok(assumed <= 0.2, `${assumed}`);
  assert.ok(measured >= 2, `${measured}`);
});

test("the age of telemetry grows for a rank that is expected and never heard", () => {
  const sizes = new Float64Array(1).fill(1);
  const load = new LoadState({ layers: 1, experts: 1, residentBytes: sizes, storedBytes: sizes }, "uid", 1_000);
  assert.equal(load.ageMs([], 61_000), 0, "nobody is expected");
  assert.equal(load.ageMs([{ rank: 0, bootId: "b", clockAheadMs: 0, speed: 1 }], 61_000), 60_000);
});
