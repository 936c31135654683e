import assert from "node:assert/strict";
import { test } from "node:test";
import { shardPrimaries } from "./shard.ts";

test("hot experts that fill the holes share no rank within a layer while another has room, whatever bytes are free", () => {
  // Two layers; the cold experts leave rank 0 with most room.
  const primaries = shardPrimaries({
    ...{ layers: 2, experts: 4, ranks: 2, top: 2 },
    load: [9, 8, 1, 1, 9, 8, 1, 1],
    bytes: new Float64Array(8).fill(1),
    capacity: [8, 5],
    ...{ speed: [1, 1], node: [0, 1] },
  });
  assert.ok(primaries);
  for (const layer of primaries) assert.notEqual(layer[0], layer[1], "the two hottest");
});

const one = { bytes: new Float64Array(4).fill(1), top: 0, speed: [1, 1, 1, 1], node: [0, 0, 1, 1] };

test("experts that are not copied go to the least loaded node, there to the least loaded rank", () => {
  // The order would be 0, 1, 2, 3 by ranks alone; the third expert finds 8 on node 0 and 5 on node 1.
  const primaries = shardPrimaries({ ...one, layers: 1, experts: 4, ranks: 4, load: [8, 5, 4, 1], capacity: [2, 2, 2, 2] });
  assert.deepEqual(primaries, [[0, 2, 3, 1]]);
});

test("layers choose in the order of the heaviest expert that is placed by load", () => {
  const primaries = shardPrimaries({ ...one, layers: 2, experts: 1, ranks: 2, node: [0, 1], load: [1, 9], capacity: [1, 1] });
  assert.deepEqual(primaries, [[1], [0]]);
});
