// Rows on ranks, by hand: expert replicas even out what primaries alone would have, and shares of experts are those of the least even layer.
import assert from "node:assert/strict";
import { test } from "node:test";
import { loadsOf, sharesAt, spreadOf } from "./spread.ts";

/** Of two micro-batches, three experts: the first has most. */
const rows = [
  [6, 1, 1],
  [6, 1, 1],
];

test("a busy expert with an expert replica loads its ranks alike, and its primary alone without", () => {
  const primaries = [0, 1, 1];
  const alone = loadsOf({ rows, primaries, ranks: 2, blocks: primaries.map((host) => [{ host, from: 0, to: 2 }]) });
  assert.deepEqual(
    [[...alone.atPrimaries], [...alone.computed]],
    [
      [12, 4],
      [12, 4],
    ],
  );
  const copied = [
    { host: 0, from: 0, to: 1 },
    { host: 1, from: 1, to: 2 },
  ];
  const shared = loadsOf({ rows, primaries, ranks: 2, blocks: [copied, [{ host: 0, from: 0, to: 2 }], [{ host: 1, from: 0, to: 2 }]] });
  assert.deepEqual(
    [[...shared.atPrimaries], [...shared.computed]],
    [
      [12, 4],
      [8, 8],
    ],
  );
  const hosts = [[[0, 1], [0], [1]], []];
  assert.deepEqual(spreadOf([shared, undefined], hosts), { imbalanceAtPrimaries: 1.5, imbalance: 1, copied: 1 / 3 });
  assert.deepEqual(spreadOf([undefined], [[]]), { imbalanceAtPrimaries: 1, imbalance: 1, copied: 0 });
});

test("the least even layer's shares are told, from the idlest expert to the busiest", () => {
  const layers = [[4, 4, 4, 4], [0, 2, 3, 15], []];
  assert.deepEqual(sharesAt(layers, [0, 0.5, 1]), [0, 0.15, 0.75]);
  assert.deepEqual(sharesAt([], [0, 1]), [0, 0]);
  assert.deepEqual(sharesAt([[0, 0]], [0, 1]), [0, 0]);
});
