// The premises of e2e files with a planted load: the planner follows a planted skew, is content with it, and moves half of all
// experts when it turns over. Seen in the simulation, with the model's sizes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { SimCluster } from "../sim/cluster.ts";
import { plantedCounts, type Skew } from "./planted-load.ts";

const layers = 30;
const experts = 8;
const residentBytes = Math.round((875 * 2 ** 20) / (layers * experts));

/** Experts that any plan of that time newly places; a window of both skews may give a plan of its own. */
async function movedWithin(sim: SimCluster, ms: number): Promise<ReadonlySet<string>> {
  const moved = new Set<string>();
  const ends = sim.clock.now() + ms;
  for (let before = sim.plan(); sim.clock.now() < ends; before = sim.plan()) {
    await sim.clock.run(200);
    const after = sim.plan();
    if (!before || !after || before.epoch === after.epoch) continue;
    for (const { layer, expert } of diffPlans(before.layers, after.layers, () => 0).moves) moved.add(`${layer}.${expert}`);
  }
  return moved;
}

for (const layersFlipped of [30, 10]) {
  test(`a planted skew that turns over in ${layersFlipped} layers is followed within seconds, and then nothing moves`, async () => {
    const sim = new SimCluster({
      ranks: 3,
      shape: { layers, experts, bytes: residentBytes, storedBytes: 256, budgetBytes: 512 * 2 ** 20 },
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
    for (const next of ["other", "one", "other"] as const) {
      const { epoch } = sim.plan() ?? { epoch: 0 };
      skew = next;
      const moved = await movedWithin(sim, 30_000);
      assert.ok(sim.plan()?.epoch !== epoch, "a plan follows");
      const least = layersFlipped === layers ? (layers * experts) / 2 : 20;
      assert.ok(moved.size >= least, `${moved.size} experts moved`);
      const after = sim.plan();
      await sim.clock.run(60_000);
      assert.equal(sim.plan()?.epoch, after?.epoch, "a followed skew moves nothing");
    }
    assert.deepEqual(sim.faults(), []);
  });
}
