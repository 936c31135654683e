import assert from "node:assert/strict";
import { test } from "node:test";
import { shardHomes } from "./shard.ts";

test("hot experts that fill the holes share no rank within a layer while another has room, whatever bytes are free", () => {
  // Two layers; the cold experts leave rank 0 with most room.
  const homes = shardHomes({
    ...{ layers: 2, experts: 4, ranks: 2, top: 2 },
    load: [9, 8, 1, 1, 9, 8, 1, 1],
    bytes: new Float64Array(8).fill(1),
    capacity: [8, 5],
    speed: [1, 1],
  });
  assert.ok(homes);
  for (const layer of homes) assert.notEqual(layer[0], layer[1], "the two hottest");
});
