// Plans of every policy for thousands of random clusters, judged by an oracle that weights no code with the planner's own checks.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { LayerPlan } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { scheduleLayers } from "../../runtime/placement/schedule.ts";
import { journeyViolations, planViolations, stepViolations } from "../../test/kit/planner/plan-oracle.ts";
import { type ClusterSizes, type RandomCluster, randomClusters, unlikeClusters } from "../../test/kit/planner/planner-cluster.ts";
import { peers } from "../../test/peers/index.ts";
import { checkMemory } from "./feasibility.ts";
import { layerBytes, makePlan, policies } from "./index.ts";
import type { PlacementPolicy, PlanInput } from "./policy.ts";
import { bytesByRank } from "./problem.ts";
import { repairPlan } from "./repair.ts";

/** The step from what is hosted, as an operator carries it out. */
function assertStep(input: PlanInput, layers: readonly LayerPlan[], what: string): void {
  const { shape, current = [] } = input;
  assert.deepEqual(planViolations(input, layers), [], what);
  const { moves, layers: changed } = diffPlans(current, layers, (l, e) => shape.storedBytes[l * shape.experts + e] ?? 0);
  assert.deepEqual(stepViolations(input, layers, moves), [], what);
  const budget = new Map(input.ranks.map((rank) => [rank.rank, rank.budgetBytes]));
  const { order, stuck } = scheduleLayers(layerBytes(shape, current, layers), bytesByRank(shape, current), budget);
  assert.deepEqual(stuck, [], `${what}: layers that fit in no order`);
  const rest = changed.filter((layer) => !order.includes(layer));
  assert.deepEqual(journeyViolations(input, layers, moves, [...order, ...rest]), [], what);
}

/** Makes a plan twice, the second time from a copy of the input with its ranks in another order. */
async function planned(policy: PlacementPolicy, input: PlanInput, what: string): Promise<readonly LayerPlan[]> {
  const copy = structuredClone(input);
  const { layers } = await makePlan(policy, input);
  assert.deepEqual(input, copy, `${what}: the input is not changed`);
  const again = await makePlan(policy, { ...copy, ranks: copy.ranks.toReversed() });
  assert.deepEqual(again.layers, layers, `${what}: same input, same plan`);
  return layers;
}

/** Policies that solve programs or search far get smaller ones. */
const large: ClusterSizes = { layers: 5, experts: 20, ranks: 20 };
const sizes: Readonly<Record<string, ClusterSizes>> = {
  incremental: { layers: 3, experts: 10, ranks: 14 },
  exact: { layers: 2, experts: 5, ranks: 4 },
};

/** Plans at first, after losses and after their return. */
async function judge(policy: PlacementPolicy, clusters: fc.Arbitrary<RandomCluster>, least: number): Promise<void> {
  let judged = 0;
  const property = fc.asyncProperty(clusters, async (c) => {
    if (judged === least || !checkMemory(c.start.shape, c.start.ranks).ok) return;
    const first = (await makePlan(policy, c.start)).layers;
    assert.deepEqual(planViolations(c.start, first), [], "first plan");
    const lost = { ...c.later, current: first };
    const repaired = repairPlan(lost, first).layers;
    // One expert replica of each comes before two of some.
    assert.deepEqual(planViolations({ ...lost, minExpertReplicas: 1 }, repaired), [], "repair");
    assert.deepEqual(planViolations({ ...lost, current: repaired }, repaired), [], "repair leaves no room unused");
    assert.equal(repairPlan({ ...lost, current: repaired }, repaired).changed, false, "repair is not repeated");
    const second = await planned(policy, { ...lost, current: repaired }, "after losses");
    assertStep({ ...lost, current: repaired }, second, "after losses");
    const third = (await makePlan(policy, { ...c.after, current: second })).layers;
    assertStep({ ...c.after, current: second }, third, "after their return");
    judged++;
  });
  await fc.assert(property, { numRuns: 3 * least, seed: 20 });
  assert.equal(judged, least, "clusters with memory for all experts");
}

for (const policy of [...Object.values(policies), ...Object.values(peers)] as PlacementPolicy[]) {
  const least = Object.hasOwn(policies, policy.name) ? 1000 : 100;
  const most = sizes[policy.name] ?? large;
  test(`${policy.name}: plans of ${least} random clusters keep the contract, at first, after losses and after their return`, () =>
    judge(policy, randomClusters(most), least));
  test(`${policy.name}: so do those of ${least / 10} clusters whose layers have unlike numbers of experts`, () =>
    judge(policy, unlikeClusters(most), least / 10));
}
