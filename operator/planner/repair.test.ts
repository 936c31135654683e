import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlan } from "../../crds/plan.ts";
import { modelShape, planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import { layerBytes } from "./index.ts";
import type { PlanInput, RankSpec } from "./policy.ts";
import { bytesByRank } from "./problem.ts";
import { orphans, repairPlan } from "./repair.ts";

function inputOf(experts: number, ranks: readonly Partial<RankSpec>[], more: Partial<PlanInput> = {}): PlanInput {
  const load = Float64Array.from({ length: experts }, (_, e) => 100 - e);
  const specs = ranks.map((rank, g) => rankSpec(g, rank));
  return planInput(modelShape(1, experts), specs, { load, effort: "fast", ...more });
}

const layer = (hosts: number[][]): LayerPlan[] => [{ hosts, weights: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))) }];

test("where every slot is taken, an expert replica of the same layer makes room for a lost expert, not one that frees bytes elsewhere", () => {
  const two = new Float64Array(6).fill(1);
  const shape = { layers: 2, experts: 3, residentBytes: two, storedBytes: two };
  const ranks = [{}, {}, { state: "dead" as const }];
  const input = inputOf(3, ranks, { shape, slotsPerRank: 2, load: Float64Array.of(9, 9, 9, 1, 1, 1) });
  const full = layer([[0, 1], [1, 0], [2]])[0] as LayerPlan;
  const cold = layer([[0, 1], [1], [0]])[0] as LayerPlan;
  const { layers, unhosted } = repairPlan(input, [full, cold]);
  assert.deepEqual(unhosted, []);
  assert.equal(layers[1], cold, "the other layer's expert replicas are of no use");
  for (const g of [0, 1]) assert.ok((layers[0]?.hosts.filter((row) => row.includes(g)).length ?? 3) <= 2);
});

test("two lost experts go into the places of two expert replicas of one rank one after the other: there is room for one on its way", () => {
  // Both ranks are full but for the staging slot; expert replicas of 0 and 1 are on rank 0 and could leave it.
  const ranks = [{ budgetBytes: 5 }, { budgetBytes: 5 }, { state: "dead" as const }];
  const current = layer([[1, 0], [1, 0], [0], [0], [1], [1], [2], [2]]);
  const budget = new Map(ranks.map((rank, g) => [g, rank.budgetBytes ?? 0]));
  let layers: readonly LayerPlan[] = current;
  const plans = [];
  for (let round = 0; round < 3; round++) {
    const input = inputOf(8, ranks, { current: layers });
    const repaired = repairPlan(input, layers, { carriedOut: true });
    const incoming = layerBytes(input.shape, layers, repaired.layers)[0]?.incoming ?? new Map();
    for (const [rank, bytes] of incoming) assert.ok((bytesByRank(input.shape, layers).get(rank) ?? 0) + bytes <= (budget.get(rank) ?? 0));
    plans.push([repaired.unhosted.length, repaired.later.length, repaired.changed]);
    layers = repaired.layers;
  }
  assert.ok(plans.every(([unhosted]) => unhosted === 0));
  assert.deepEqual(plans.at(-1), [0, 0, false], "in the end every expert has a primary");
  assert.deepEqual(orphans(inputOf(8, ranks), layers), []);
});

test("a rank that computes nothing is given no lost expert, not even in the place of an expert replica", () => {
  const ranks = [{ budgetBytes: 3 }, { speed: 0, budgetBytes: 2 }, { state: "dead" as const }];
  const current = layer([[0], [1, 0], [2]]);
  const { layers, unhosted } = repairPlan(inputOf(3, ranks), current);
  assert.deepEqual([layers[0]?.hosts[2], unhosted], [[0], []]);
});

test("a placement that lost nothing is returned as it is, layer by layer", () => {
  const current = layer([[0, 1], [1]]);
  const repaired = repairPlan(inputOf(2, [{}, {}]), current);
  assert.equal(repaired.layers[0], current[0]);
  assert.equal(repaired.changed, false);
});

test("a loss for which there is no room costs in proportion to the model, not to its square", () => {
  const experts = 256;
  const cpuMs = (layers: number): number => {
    const bytes = new Float64Array(layers * experts).fill(1);
    const shape = { layers, experts, residentBytes: bytes, storedBytes: bytes };
    const budgetBytes = (1.2 * layers * experts) / 32;
    const ranks = Array.from({ length: 32 }, (_, g) => ({ budgetBytes, state: g < 16 ? ("active" as const) : ("dead" as const) }));
    const input = inputOf(experts, ranks, { shape, load: new Float64Array(layers * experts).fill(1) });
    const current = Array.from({ length: layers }, () => layer(Array.from({ length: experts }, (_, e) => [e % 32]))[0] as LayerPlan);
    const before = process.cpuUsage();
    const { unhosted } = repairPlan(input, current, { carriedOut: true });
    const { user, system } = process.cpuUsage(before);
    assert.ok(unhosted.length > (layers * experts) / 4);
    return (user + system) / 1000;
  };
  cpuMs(8);
  const [few, many] = [cpuMs(8), cpuMs(64)];
  assert.ok(many < 24 * few + 100, `${few} -> ${many} ms of CPU: 8 times the model; quadratic would be 64 times`);
});
