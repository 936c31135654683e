// A cluster that serves a model whose layers differ in number and size of experts: described, planned, loaded, balanced and repaired by
// production code, with the oracle of the simulation looking on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "./cluster.ts";

const layerExperts = [0, 4, 8, 6, 0, 8];
const layerBytes = [0, 250, 60, 100, 0, 60];
const shape = { layers: 6, experts: 8, layerExperts, bytes: 250, layerBytes, budgetBytes: 1700 };
const fast = { rebalancing: { trigger: { window: "5s", minTokens: 1000 }, interval: "5s" } };
const skewed = (layer: number): number[] =>
  Array.from({ length: layerExperts[layer] ?? 0 }, (_, e) => 1000 * 0.55 ** ((e + layer * 3) % (layerExperts[layer] ?? 1)) + 20);
const sizes = (sim: SimCluster): number[] | undefined => sim.plan()?.layers.map(({ hosts }) => hosts.length);

test("a model of unlike layers is placed, balanced by its load, and repaired when a rank is lost", async () => {
  const sim = new SimCluster({ shape, spec: fast });
  sim.demand = skewed;
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()), "the first plan is committed");
  assert.deepEqual(sizes(sim), layerExperts);
  const need = layerExperts.reduce((sum, count, layer) => sum + count * layerBytes[layer]!, 0);
  assert.deepEqual([sim.loop?.view()?.model?.expertBytes, sim.loop?.view()?.model?.largestExpertBytes], [need, 250]);
  const before = sim.imbalance();
  assert.ok(before > 1.3, `starts at ${before}`);
  await sim.clock.run(120_000);
  assert.ok(sim.imbalance() <= 1.15, `${before} -> ${sim.imbalance()}`);
  assert.deepEqual(sim.faults(), []);

  sim.worker(1).crash(undefined);
  const repaired = () => sim.plan()?.layers.every(({ hosts }) => hosts.every((row) => row.length > 0 && !row.includes(1))) ?? false;
  assert.ok(await sim.clock.run(120_000, () => repaired() && sim.converged()), "every expert has a host that is there");
  assert.deepEqual(sizes(sim), layerExperts);
});
