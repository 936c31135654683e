// A simulated cluster as tests of the rebalance plane begin: its first plan is committed, and no rule is broken until the test ends.
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { SimCluster, type SimOptions } from "./cluster.ts";

/** Rows of each of eight experts of a layer. */
export const skewed = (layer: number): number[] => Array.from({ length: 8 }, (_, e) => 1000 * 0.55 ** ((e + layer * 3) % 8) + 20);
export const otherTopic = (layer: number): number[] => Array.from({ length: 8 }, (_, e) => 1000 * 0.55 ** ((e * 3 + layer + 4) % 8) + 20);
export const fast = { rebalancing: { trigger: { window: "5s", minTokens: 1000 }, interval: "5s" } };
export const still = { rebalancing: { ...fast.rebalancing, mode: "Off" } };

export async function converged(t: TestContext, options: SimOptions = {}): Promise<SimCluster> {
  const sim = new SimCluster(options);
  sim.demand = skewed;
  sim.startOperator();
  t.after(() => assert.deepEqual(sim.faults(), []));
  assert.ok(await sim.clock.run(30_000, () => sim.converged()), "the first plan is committed");
  return sim;
}
