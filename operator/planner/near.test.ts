import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlan } from "../../crds/plan.ts";
import { byPath } from "../../runtime/placement/cost.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { nearWeights, sourcesOf } from "../../runtime/worker/near-routing.ts";
import { modelShape, planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import { makePlan, policies } from "./index.ts";
import { SourceLoad } from "./load/source-load.ts";
import { incremental } from "./policies/incremental.ts";
import type { PlacementPolicy, PlanInput } from "./policy.ts";
import { awayShares, predictedWorst, savableRows, whetherToMove } from "./replan.ts";
import { addRows, weightsFor } from "./sources.ts";

const [layers, experts, ranks] = [3, 6, 3];
const alone = (hostOf: (layer: number, expert: number) => number): LayerPlan[] =>
  Array.from({ length: layers }, (_, l) => ({
    hosts: Array.from({ length: experts }, (_, e) => [hostOf(l, e)]),
    weights: Array.from({ length: experts }, () => [1000]),
  }));
/** Tokens of rank r choose experts 2r and 2r + 1 in this part; the load is even. */
const sourcesOfTopics = (part: number): ReadonlyMap<number, Float32Array> =>
  new Map(
    Array.from({ length: ranks }, (_, r) => [
      r,
      Float32Array.from({ length: layers * experts }, (_, i) => (Math.floor((i % experts) / 2) === r ? part : (1 - part) / 2) * 10_000),
    ]),
  );
const inputOf = (slots: number, more: Partial<PlanInput> = {}): PlanInput =>
  planInput(
    modelShape(layers, experts),
    Array.from({ length: ranks }, (_, r) => rankSpec(r, { budgetBytes: slots + 1 })),
    { load: new Float64Array(layers * experts).fill(1000), current: alone((_, e) => e % ranks), ...more },
  );
const meanAway = (input: PlanInput, plan: readonly LayerPlan[]): number => awayShares(input, plan).reduce((a, b) => a + b, 0) / layers;

test("free memory takes the replicas that keep most rows for a byte, within the budget, and layers stay even", async () => {
  const input = inputOf(10, { sources: sourcesOfTopics(0.8), budget: { maxMoves: 10, maxMovesPerRank: 2, maxBytes: 6 } });
  const { layers: plan, reason } = await makePlan(incremental, input);
  const added = plan.flatMap(({ hosts }) => hosts.filter((row) => row.length > 1));
  assert.equal(added.length, 6, reason);
  for (const { hosts } of plan)
    for (const [e, row] of hosts.entries()) if (row.length > 1) assert.ok(row.includes(Math.floor(e / 2)), `${e}: ${row}`);
  assert.ok(meanAway(input, plan) < meanAway(input, input.current ?? []) - 0.08);
  assert.ok(predictedWorst(input, plan) <= 1.06);
  assert.deepEqual((await makePlan(incremental, { ...inputOf(10), budget: input.budget })).layers, input.current, "nobody told of sources");
});

test("an uneven layer costs other layers no replica, and its own come back without a move", async () => {
  const everywhere = Array.from({ length: experts }, (_, e) => [e % ranks, (e + 1) % ranks, (e + 2) % ranks]);
  const current = [[[0], [0], ...everywhere.slice(2)], everywhere, everywhere].map((hosts) => ({
    hosts,
    weights: hosts.map((row) => (row.length === 1 ? [1000] : [334, 333, 333])),
  }));
  const load = Float64Array.from({ length: layers * experts }, (_, i) => (i < 2 ? 4000 : i < experts ? 500 : 1000));
  const input = inputOf(40, { current, load, sources: sourcesOfTopics(0.6), budget: { maxMoves: 3, maxMovesPerRank: 3, maxBytes: 3 } });
  const { layers: plan, reason } = await makePlan(incremental, input);
  assert.ok(predictedWorst(input, plan) < predictedWorst(input, current) - 0.5, reason);
  const size = (hosts: readonly (readonly number[])[]): number => hosts.slice(2).flat().length;
  for (const [l, { hosts }] of plan.entries()) assert.equal(size(hosts), size(current[l]?.hosts ?? []), `${l}: ${reason}`);
});

test("a replica gives way to one that keeps more rows, even on full ranks, and not by chance", () => {
  const rows = ["01", "12", "20", "02", "10", "21"].map((row) => [...row].map(Number));
  const current = Array.from({ length: layers }, () => ({ hosts: rows, weights: rows.map(() => [500, 500]) }));
  const sources = sourcesOfTopics(0.6);
  const few = new Map([...sources].map(([r, counts]) => [r, counts.map((n) => n / 1000)]));
  for (const slots of [12, 14]) {
    assert.ok(savableRows(inputOf(slots, { current, sources })) > 0.1);
    assert.equal(savableRows(inputOf(slots, { current, sources: few })), 0);
  }
});

test("only a policy that keeps rows near plans for them, and counts that nobody renews are not kept", () => {
  assert.deepEqual(
    Object.values<PlacementPolicy>(policies).flatMap(({ name, keepsNear }) => (keepsNear ? [name] : [])),
    ["incremental"],
  );
  const sources = new SourceLoad();
  const ranks = [{ rank: 0, bootId: "a", clockAheadMs: 0, speed: 1 }];
  sources.observe({ ranks, routedBy: [Float32Array.of(1)] });
  for (let window = 0; window < 9; window++) sources.observe({ ranks });
  assert.equal(sources.of(ranks), undefined);
});

test("ranks of several zones are planned without regard to sources, since predictions know no zones", () => {
  const input = inputOf(10, { sources: sourcesOfTopics(0.8) });
  assert.ok(meanAway(input, input.current ?? []) > 0);
  const apart = { ...input, ranks: input.ranks.map((rank, i) => ({ ...rank, zone: `zone-${i & 1}` })) };
  assert.equal(meanAway(apart, apart.current ?? []), 0);
});

test("the worth of a plan counts rows that stay, and its price is that of its bytes", async () => {
  const input = inputOf(10, { sources: sourcesOfTopics(0.8) });
  const { layers: plan } = await makePlan(incremental, input);
  const options = { mode: "Auto", noise: 0, rates: byPath(() => 1), limit: 1, lifetimeSeconds: 300 } as const;
  const { decision } = whetherToMove(input, plan, options);
  assert.equal(decision.reason, "RowsAway");
  assert.match(decision.message, /52% fewer rows leave their rank/);
  assert.equal(whetherToMove(input, plan, { ...options, lifetimeSeconds: 1 }).decision.reason, "TransferNotWorth");
});

test("weights bring the rows that are wanted when every source takes its own replica first", () => {
  const source = Float64Array.from([600, 300, 100]);
  const cases: readonly (readonly [readonly number[], readonly number[]])[] = [
    [
      [0, 1],
      [650, 350],
    ],
    [
      [0, 1],
      [500, 500],
    ],
    [
      [0, 1, 2],
      [600, 300, 100],
    ],
    [
      [1, 2],
      [900, 100],
    ],
  ];
  for (const [hosts, wanted] of cases) {
    const weights = weightsFor(wanted, source, hosts);
    const load = new Float64Array(3);
    const away = addRows(load, source, hosts, weights);
    for (const [i, g] of hosts.entries()) assert.ok(Math.abs((load[g] as number) - (wanted[i] as number)) < 5, `${hosts}: ${load}`);
    assert.ok(Math.abs(away - (1000 - hosts.reduce((sum, g, i) => sum + Math.min(wanted[i] ?? 0, source[g] as number), 0))) < 5);
    const members = [0, 1, 2].map((rank) => ({ rank, state: "active" }));
    const routed = new Float64Array(3);
    for (const rank of [0, 1, 2])
      for (const [i, weight] of nearWeights(hosts, weights, sourcesOf(rank, members)).entries())
        routed[hosts[i] as number] = (routed[hosts[i] as number] as number) + ((source[rank] as number) * weight) / 1000;
    assert.ok(imbalance(routed, [1, 1, 1]) - imbalance(load, [1, 1, 1]) < 0.01, `${routed} beside ${load}`);
  }
});
