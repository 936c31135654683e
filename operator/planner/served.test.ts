// Plans of ranks that serve more than they hold: all experts, within the budgets that served.ts gives, by every policy and through changes
// of ranks.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { modelShape, planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import { planViolations } from "../../test/kit/planner/plan-oracle.ts";
import { checkMemory } from "./feasibility.ts";
import { makePlan, policies } from "./index.ts";
import type { PlanInput, RankSpec } from "./policy.ts";
import { bytesByRank } from "./problem.ts";
import { firstPlan, repairPlan } from "./repair.ts";
import { predictedLayers } from "./replan.ts";
import { isOversubscribed, servedBudgets } from "./served.ts";

const ranksOf = (count: number, budgetBytes: number): RankSpec[] =>
  Array.from({ length: count }, (_, rank) => rankSpec(rank, { budgetBytes }));
const zipf = (layers: number, experts: number): Float64Array =>
  Float64Array.from({ length: layers * experts }, (_, i) => 1000 / (1 + ((i * 7) % experts)));

test("where memory holds all, budgets stay what they are", () => {
  const ranks = ranksOf(4, 9);
  const served = servedBudgets(modelShape(2, 16), ranks);
  assert.deepEqual(
    served.map(({ memoryBytes: _, ...rank }) => rank),
    ranks,
  );
  assert.equal(isOversubscribed(served), false);
});

test("no rank with memory for one expert is refused, and of ranks without any none serves more than another", () => {
  const shape = modelShape(2, 16);
  assert.ok(checkMemory(shape, servedBudgets(shape, ranksOf(3, 2))).ok);
  assert.ok(!checkMemory(shape, servedBudgets(shape, ranksOf(3, 1))).ok);
});

test("while ranks that hold all of theirs are replaced, these serve what they hold and others the rest", () => {
  const shape = modelShape(2, 16);
  const mixed = ranksOf(3, 5).map((rank) => ({ ...rank, holdsAll: rank.rank === 0, budgetBytes: rank.rank === 0 ? 13 : 5 }));
  const served = servedBudgets(shape, mixed);
  assert.equal(served[0]?.budgetBytes, 13);
  assert.ok(checkMemory(shape, served).ok);
  assert.ok(
    served.slice(1).every(({ budgetBytes }) => budgetBytes >= 12 && budgetBytes <= 13),
    JSON.stringify(served),
  );
});

test("below the whole every policy plans every expert within the given budgets, also for unlike sizes and unlike memory", async () => {
  const worlds = fc.record({
    sizes: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 16, maxLength: 16 }),
    memory: fc.array(fc.integer({ min: 18, max: 30 }), { minLength: 1, maxLength: 5 }),
    moves: fc.constantFrom(4, 64),
  });
  let over = 0;
  await fc.assert(
    fc.asyncProperty(worlds, async ({ sizes, memory, moves }) => {
      const shape = { ...modelShape(2, 8), residentBytes: Float64Array.from(sizes), storedBytes: Float64Array.from(sizes) };
      const ranks = servedBudgets(
        shape,
        memory.map((budgetBytes, rank) => rankSpec(rank, { budgetBytes })),
      );
      over += isOversubscribed(ranks) ? 1 : 0;
      const input = planInput(shape, ranks, {
        load: zipf(2, 8),
        effort: "fast",
        budget: { maxMoves: moves, maxMovesPerRank: moves, maxBytes: 1e9 },
      });
      const current = firstPlan(input);
      for (const policy of Object.values(policies)) {
        const planned: PlanInput = { ...input, current };
        assert.deepEqual(planViolations(planned, (await makePlan(policy, planned)).layers), [], policy.name);
      }
    }),
    { numRuns: 60, seed: 5 },
  );
  assert.ok(over > 20, `${over}`);
});

test("hosts are as even as whole memory makes them, with no more replicas than a slot for each rank", async () => {
  const shape = modelShape(4, 32);
  const load = zipf(4, 32);
  const served = servedBudgets(shape, ranksOf(4, 17)); // half of the bytes
  const even = async (ranks: readonly RankSpec[]) => {
    const input = planInput(shape, ranks, { load });
    const current = firstPlan(input);
    const { layers } = await makePlan(policies.incremental, { ...input, current });
    const hosts = layers.reduce((sum, layer) => sum + layer.hosts.flat().length, 0);
    return { worst: Math.max(...predictedLayers(input, layers)), replicas: hosts - 4 * 32 };
  };
  const half = await even(served);
  const whole = await even(ranksOf(4, 35));
  assert.ok(half.replicas <= 4, `${half.replicas}`);
  assert.ok(half.worst < whole.worst + 0.03, `${half.worst} beside ${whole.worst}`);
});

test("a lost rank's experts go to the others, and a rank that comes back takes the coldest of them until budgets hold", async () => {
  const shape = modelShape(4, 32);
  const load = zipf(4, 32);
  const at = (present: number) =>
    servedBudgets(
      shape,
      ranksOf(3, 22).map((rank) => (rank.rank < present ? rank : { ...rank, state: "dead" as const, budgetBytes: 0 })),
    );
  const first = firstPlan(planInput(shape, at(3), { load }));
  const lost = repairPlan(planInput(shape, at(2), { load }), first, { carriedOut: true });
  assert.deepEqual([lost.unhosted, lost.later], [[], []]);
  for (const [rank, bytes] of bytesByRank(shape, lost.layers)) assert.ok(bytes <= 65, `rank ${rank}: ${bytes}`);
  const back = planInput(shape, at(3), { load, current: lost.layers });
  const { layers } = await makePlan(policies.incremental, back);
  assert.deepEqual(planViolations(back, layers), []);
  for (const [rank, bytes] of bytesByRank(shape, layers)) assert.ok(bytes <= 44, `rank ${rank}: ${bytes}`);
  // Memory that suffices again is used by all.
  const enough = servedBudgets(shape, ranksOf(3, 45));
  const uneven = planInput(shape, enough, { load, current: lost.layers });
  const filled = await makePlan(policies.incremental, uneven);
  for (const [rank, bytes] of bytesByRank(shape, filled.layers)) assert.ok(bytes <= 44, `rank ${rank}: ${bytes}`);
});
