// What the e2e files count on: the planner follows a planted skew, is content with it, and moves half of all experts when it
// turns over. Seen in the simulation, with the model's sizes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { SimCluster } from "../sim/cluster.ts";
import { plantedCounts, type Skew } from "./planted-load.ts";

const layers = 30;
const experts = 8;
const residentBytes = Math.round((875 * 2 ** 20) / (layers * experts));

for (const layersFlipped of [30, 10]) {
  test(`a planted skew that turns over in ${layersFlipped} layers is followed within seconds, and then nothing moves`, async () => {
    const sim = new SimCluster({
      ranks: 3,
      shape: { layers, experts, bytes: residentBytes, budgetBytes: 512 * 2 ** 20 },
      spec: {
        rebalancing: {
          policy: "smartmoe",
          interval: "1s",
          trigger: { imbalancePercent: 150, window: "2s", minTokens: 1000 },
          budget: { maxMoves: 1000 },
        },
      },
    });
    let skew: Skew = "one";
    sim.demand = (layer) => [...plantedCounts(skew, { layers, experts, layersFlipped }).slice(layer * experts, (layer + 1) * experts)];
    sim.startOperator();
    await sim.clock.run(60_000);
    for (const [turn, next] of (["other", "one", "other"] as const).entries()) {
      const before = sim.plan();
      skew = next;
      assert.ok(await sim.clock.run(10_000, () => (sim.plan()?.epoch ?? 0) > (before?.epoch ?? 0)), "a plan follows");
      await sim.clock.run(30_000);
      const after = sim.plan();
      assert.ok(before && after);
      const moved = new Set(diffPlans(before.layers, after.layers, () => 0).moves.map(({ layer, expert }) => `${layer}.${expert}`));
      const least = layersFlipped === layers ? (layers * experts) / 2 : 20;
      // The first turn comes from a placement that other loads have shaped, in two plans.
      if (turn > 0) assert.ok(moved.size >= least, `${moved.size} experts moved`);
      await sim.clock.run(60_000);
      assert.equal(sim.plan()?.epoch, after.epoch, "a followed skew moves nothing");
    }
    assert.deepEqual(sim.faults(), []);
  });
}
