import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseQuantity } from "../../crds/quantity.ts";
import { planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import { planViolations } from "../../test/kit/planner/plan-oracle.ts";
import { checkMemory, type Feasibility } from "./feasibility.ts";
import { makePlan, policies } from "./index.ts";
import type { ModelShape, PlacementPolicy, PlanInput, RankSpec } from "./policy.ts";

function shapeOf(layers: number, sizes: readonly number[]): ModelShape {
  const bytes = Float64Array.from(sizes);
  return { layers, experts: sizes.length / layers, residentBytes: bytes, storedBytes: bytes };
}

const ranksOf = (count: number, budgetBytes: number): RankSpec[] =>
  Array.from({ length: count }, (_, rank) => rankSpec(rank, { budgetBytes }));

const inputOf = (shape: ModelShape, ranks: readonly RankSpec[]): PlanInput =>
  planInput(shape, ranks, { load: Float64Array.from(shape.residentBytes, (_, i) => i % 7), effort: "fast" });

function refusal(fits: Feasibility): string {
  assert.ok(!fits.ok, "there is no refusal");
  assert.equal(fits.reason, "InsufficientExpertMemory");
  return fits.message;
}

/** The remedies that a refusal names: bytes of memoryPerRank, and a number of replicas if that helps. */
function remedies(message: string): { memory: number; replicas: number | undefined } {
  const [, memory = ""] = /raise memoryPerRank to ([^\s,]+)/.exec(message) ?? [];
  const [, replicas] = / or replicas to (\d+), or set experts\.oversubscription to Allow$/.exec(message) ?? [];
  return { memory: parseQuantity(memory, "memoryPerRank"), replicas: replicas === undefined ? undefined : Number(replicas) };
}

test("at the least memory that holds all experts every policy makes a plan; a byte below, each refuses and names field and remedy", async () => {
  const clusters = fc.record({
    layers: fc.integer({ min: 1, max: 2 }),
    experts: fc.integer({ min: 1, max: 4 }),
    ranks: fc.integer({ min: 1, max: 4 }),
    bytes: fc.constantFrom(1, 7, 1000, 3_145_728),
  });
  const all: readonly PlacementPolicy[] = Object.values(policies);
  await fc.assert(
    fc.asyncProperty(clusters, async ({ layers, experts, ranks, bytes }) => {
      const shape = shapeOf(layers, new Array<number>(layers * experts).fill(bytes));
      // The rank with most experts holds them and one more that arrives.
      const least = (Math.ceil((layers * experts) / ranks) + 1) * bytes;
      assert.deepEqual(checkMemory(shape, ranksOf(ranks, least)), { ok: true });
      const short = inputOf(shape, ranksOf(ranks, least - 1));
      const message = refusal(checkMemory(shape, short.ranks));
      assert.match(
        message,
        /^experts need \S+ plus one staging slot of \S+ per rank, \d+ ranks? x \S+ = \S+ \(\S+ usable\): raise memoryPerRank to \S+/,
      );
      for (const policy of all) {
        const enough = inputOf(shape, ranksOf(ranks, least));
        assert.deepEqual(planViolations(enough, (await makePlan(policy, enough)).layers), [], policy.name);
        await assert.rejects(makePlan(policy, short), { code: "InsufficientExpertMemory", message }, policy.name);
      }
    }),
    { numRuns: 50, seed: 3 },
  );
});

test("the remedies that a refusal names hold, also for experts of unlike sizes", () => {
  const clusters = fc.record({
    sizes: fc.array(fc.integer({ min: 0, max: 120 }), { minLength: 1, maxLength: 24 }),
    ranks: fc.integer({ min: 1, max: 8 }),
    percent: fc.integer({ min: 0, max: 200 }),
  });
  let refused = 0;
  let more = 0;
  fc.assert(
    fc.property(clusters, ({ sizes, ranks, percent }) => {
      const shape = shapeOf(1, sizes);
      const need = sizes.reduce((a, b) => a + b, 0);
      const budget = Math.floor(((need / ranks + Math.max(...sizes)) * percent) / 100);
      const fits = checkMemory(shape, ranksOf(ranks, budget));
      if (fits.ok) return;
      refused++;
      const { memory, replicas } = remedies(refusal(fits));
      assert.deepEqual(checkMemory(shape, ranksOf(ranks, memory)), { ok: true }, `memoryPerRank ${memory}`);
      if (replicas === undefined) return;
      more++;
      assert.ok(replicas > ranks);
      assert.deepEqual(checkMemory(shape, ranksOf(replicas, budget)), { ok: true }, `replicas ${replicas}`);
    }),
    { numRuns: 3000, seed: 4 },
  );
  assert.ok(refused > 1000 && more > 100, `${refused} refused, ${more} with replicas as a remedy`);
});

test("without an active rank replicas are the remedy", () => {
  const ranks = ranksOf(2, 1000).map((rank) => ({ ...rank, state: "dead" as const }));
  assert.equal(refusal(checkMemory(shapeOf(1, [1, 2]), ranks)), "no rank is active: raise replicas to at least 1");
});
