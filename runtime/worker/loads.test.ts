import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlacement } from "../../crds/plan.ts";
import { plannedLoads } from "./loads.ts";

const layerOf = (layer: number, hosts: readonly (readonly number[])[]): LayerPlacement => ({
  layer,
  epoch: 1,
  hosts,
  weights: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))),
});
/** Layers 3 and 7, eight experts each on rank 0; then ranks 1 to 4 get two of each layer. */
const before = [3, 7].map((layer) => layerOf(layer, Array(8).fill([0])));
const after = [3, 7].map((layer) =>
  layerOf(
    layer,
    Array.from({ length: 8 }, (_, e) => [0, 1 + (e % 4)]),
  ),
);
const parent = (layer: number) => before.find((each) => each.layer === layer);
const loads = (rank: number, sources: readonly number[] = [0]) => plannedLoads({ rank, layers: after, parent, sources: () => sources });

test("a rank loads all that the plan gives it, and the receivers of one source begin with different experts", () => {
  const receivers = [1, 2, 3, 4].map((rank) => loads(rank));
  for (const [i, own] of receivers.entries()) {
    const got = own.map(({ layer, expert }) => `${layer}.${expert}`).sort();
    assert.deepEqual(got, [`3.${i}`, `3.${i + 4}`, `7.${i}`, `7.${i + 4}`]);
  }
  assert.deepEqual(loads(0).length, 16); // what it holds already is made sure of
});

test("layers become complete one after another where the schedule allows it", () => {
  assert.deepEqual(
    loads(1).map(({ layer }) => layer),
    [3, 3, 7, 7],
  );
});

test("the scheduled source is asked first, the others after it; a first plan has none but those that may have it", () => {
  assert.deepEqual(loads(2, [5, 0, 6])[0]?.sources, [0, 5, 6]);
  assert.deepEqual(plannedLoads({ rank: 1, layers: after, parent: () => undefined, sources: () => [] })[0]?.sources, []);
});
