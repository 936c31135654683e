import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { PlacementView, RankLoad } from "../rebalance/status/placement-view.ts";
import { heatView, layerLoads, leastEven } from "./heat.ts";

const rank = (n: number): RankLoad => {
  return {
    rank: n,
    pod: `p${n}`,
    node: "n",
    zone: undefined,
    state: "active",
    bootId: "b",
    activeRequests: 0,
    queuedTokens: 0,
    served: undefined,
    kv: undefined,
  };
};
const layerOf = (layer: number, hosts: number[][], weights: number[][]) => ({ layer, epoch: 1, hosts, weights });
const planOf = (layers: PlacementPlan["layers"]): PlacementPlan => ({
  deploymentUid: "u",
  epoch: 1,
  parentEpoch: 0,
  planHash: "",
  modelDigest: "d",
  layers,
});
/** Layers 2 and 5 have two experts each on two ranks; expert 0 of layer 5 is asked for thrice as often. */
const plan = planOf([layerOf(2, [[0], [1]], [[1000], [1000]]), layerOf(5, [[0, 1], [1]], [[500, 500], [1000]])]);
const placement = (more: Partial<PlacementView> = {}): PlacementView => {
  return {
    plan,
    underWay: undefined,
    status: undefined,
    expected: new Float64Array([10, 10, 30, 10]),
    experts: 2,
    ranks: [rank(0), rank(1)],
    ...more,
  };
};

test("loads are percent of what a rank computes of the layer on average", () => {
  const heat = heatView(placement(), 5);
  assert.deepEqual([heat?.hosts, heat?.weights], ["0.1,1", "500.500,1000"]);
  assert.deepEqual(
    [heat?.expertPercent, heat?.rankPercent],
    [
      [150, 50],
      [75, 125],
    ],
  );
});

test("roles stand beside the ranks, where ranks have some", () => {
  const roles = placement({ status: { ranks: [{ rank: 1, role: "prefill" }] } });
  assert.deepEqual([heatView(roles, 5)?.roles, heatView(placement(), 5)?.roles], [["", "prefill"], undefined]);
});

test("the layer that is least even is found by its number, not by its place", () => {
  const loads = layerLoads(placement());
  assert.deepEqual(
    loads.map(({ layer, imbalancePercent }) => [layer, imbalancePercent]),
    [
      [2, 100],
      [5, 125],
    ],
  );
  assert.equal(leastEven(loads), 5);
});

test("a rank that plans count as slow is the busier for the same rows", () => {
  const status = {
    ranks: [
      { rank: 0, speedPercent: 50 },
      { rank: 1, speedPercent: 100 },
    ],
  };
  const [first] = layerLoads(placement({ status }));
  assert.equal(first?.imbalancePercent, 150);
});

test("while no load is known there are no numbers, and the map has its weights", () => {
  const heat = heatView(placement({ expected: undefined }), 5);
  assert.deepEqual([heat?.expertPercent, heat?.rankPercent, heat?.hosts], [undefined, undefined, "0.1,1"]);
  assert.equal(leastEven(layerLoads(placement({ expected: undefined }))), 2);
});

test("a layer under way shows what it is to be and how far it is, with ranks that only come; the others do not", () => {
  const next = planOf([plan.layers[0]!, layerOf(5, [[0, 7], [1]], [[500, 500], [1000]])]);
  const underWay = { kind: "rebalance", moves: 1, plan: next, phases: new Map([[5, "preparing" as const]]) };
  const heat = heatView(placement({ underWay }), 5);
  assert.deepEqual([heat?.ranks, heat?.next], [[0, 1, 7], { hosts: "0.7,1", weights: "500.500,1000", phase: "preparing" }]);
  assert.equal(heatView(placement({ underWay }), 2)?.next, undefined);
});

test("there is no map of a layer that the plan does not have, nor without a plan", () => {
  assert.equal(heatView(placement(), 3), undefined);
  assert.equal(heatView(placement({ plan: undefined }), 5), undefined);
  assert.equal(leastEven([]), undefined);
});
