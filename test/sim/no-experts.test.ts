// A cluster that serves a model without experts: described, planned with nothing to place, scaled, and repaired when a rank is lost.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "./cluster.ts";

const shape = { layers: 3, experts: 0, bytes: 0, budgetBytes: 1000 };

test("a model without experts is served: its plan places nothing, and a lost rank leaves nothing to repair", async () => {
  const sim = new SimCluster({ shape, spec: { rebalancing: { trigger: { window: "5s", minTokens: 1000 }, interval: "5s" } } });
  sim.demand = () => [];
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()), "the first plan is committed");
  assert.deepEqual(
    sim.plan()?.layers.map(({ hosts }) => hosts),
    [[], [], []],
  );
  await sim.clock.run(60_000);
  assert.deepEqual(sim.faults(), []);
  sim.worker(1).crash(undefined);
  await sim.clock.run(60_000);
  assert.ok(sim.converged());
});
