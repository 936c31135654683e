import assert from "node:assert/strict";
import { test } from "node:test";
import { pathCost } from "./path-cost.ts";
import type { RankSpec } from "./policy.ts";

const rank = (n: number, node: string, zone: string): RankSpec => ({ rank: n, speed: 1, budgetBytes: 1, zone, node, state: "active" });

test("a copy from the same node is cheaper than from the zone, from another zone dearer; the nearest source counts", () => {
  const cost = pathCost([rank(0, "a", "z1"), rank(1, "a", "z1"), rank(2, "b", "z1"), rank(3, "c", "z2")]);
  assert.ok(cost);
  assert.equal(cost(0, 0, 1, [0]), 0.5);
  assert.equal(cost(0, 0, 2, [0]), 1);
  assert.equal(cost(0, 0, 3, [0, 2]), 3);
  assert.equal(cost(0, 0, 1, [3, 0]), 0.5);
  assert.equal(cost(0, 0, 1, []), 2, "from the store");
});

test("where every rank has a node of one zone to itself, paths do not differ", () => {
  assert.equal(pathCost([rank(0, "a", ""), rank(1, "b", "")]), undefined);
});
