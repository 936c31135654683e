import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { randomClusters } from "../../test/kit/planner/planner-cluster.ts";
import { makePlan, policies } from "./index.ts";
import { pathCost } from "./path-cost.ts";
import type { RankSpec } from "./policy.ts";

const rank = (n: number, node: string, zone: string): RankSpec => ({ rank: n, speed: 1, budgetBytes: 1, zone, node, state: "active" });

test("an expert replica from the same node is cheaper than from the zone, from another zone dearer; the nearest source counts", () => {
  const cost = pathCost([rank(0, "a", "z1"), rank(1, "a", "z1"), rank(2, "b", "z1"), rank(3, "c", "z2")]);
  assert.ok(cost);
  assert.equal(cost(0, 0, 1, [0]), 0.5);
  assert.equal(cost(0, 0, 2, [0]), 1);
  assert.equal(cost(0, 0, 3, [0, 2]), 3);
  assert.equal(cost(0, 0, 1, [3, 0]), 0.5);
  assert.equal(cost(0, 0, 1, []), 2, "from the store");
});

test("an expert replica from another rack of the zone costs more than from the same one, and less than from another zone", () => {
  const racked = (n: number, rack: string, zone: string) => ({ ...rank(n, `n${n}`, zone), rack });
  const cost = pathCost([racked(0, "r0", "z1"), racked(1, "r0", "z1"), racked(2, "r1", "z1"), racked(3, "r0", "z2")]);
  assert.deepEqual([cost?.(0, 0, 1, [0]), cost?.(0, 0, 2, [0]), cost?.(0, 0, 3, [0]), cost?.(0, 0, 2, [0, 3])], [1, 1.5, 3, 1.5]);
  assert.equal(pathCost([racked(0, "r0", "z1"), racked(1, "r0", "z1")]), undefined, "one rack");
});

test("where every rank has a node of one zone to itself, paths do not differ", () => {
  assert.equal(pathCost([rank(0, "a", ""), rank(1, "b", "")]), undefined);
});

test("plans are the very same where nodes name no rack and where all of a zone name one", async () => {
  await fc.assert(
    fc.asyncProperty(randomClusters({ layers: 3, experts: 12, ranks: 6 }), async ({ start, later }) => {
      // Some clusters are too small for their experts.
      const first = await makePlan(policies.incremental, start).catch(() => undefined);
      fc.pre(first !== undefined);
      const input = { ...later, current: first.layers };
      const racked = { ...input, ranks: input.ranks.map((one) => ({ ...one, rack: "r" })) };
      assert.deepEqual(await makePlan(policies.incremental, racked), await makePlan(policies.incremental, input));
    }),
    { numRuns: 100, seed: 1 },
  );
});
