// Chunks: numbers and ranges of slices cover experts once, and with one slice a chunk is its expert.
import assert from "node:assert/strict";
import { test } from "node:test";
import { placements } from "../../../test/kit/planner/random-placements.ts";
import { chunkBlocks, chunkHosts, chunkIn, chunkOf, expertOf, slicesPerExpert } from "./chunks.ts";

for (const slices of [1, 2, 4])
  test(`${slices} slices: chunks are numbered expert by expert, and have each float of their expert once`, () => {
    const floats = 24;
    const experts = Array.from({ length: 3 }, (_, expert) => Float32Array.from({ length: floats }, (_, i) => expert * floats + i));
    const numbers = experts.flatMap((_, expert) => Array.from({ length: slices }, (_, slice) => chunkOf(expert, slice, slices)));
    assert.deepEqual(numbers, [...Array(3 * slices).keys()]);
    const found = numbers.flatMap((chunk) => [...chunkIn(experts[expertOf(chunk, slices)]!, chunk, slices)]);
    assert.deepEqual(found, [...Array(3 * floats).keys()]);
    const first = chunkIn(experts[0]!, 0, slices);
    first.fill(-1);
    assert.ok(
      experts[0]!.subarray(0, floats / slices).every((value) => value === -1),
      "a view of the expert",
    );
  });

test("slices of unequal length are refused: bytes of a chunk would not be those of the laws", () => {
  assert.throws(() => chunkIn(new Float32Array(26), 0, 4), { message: /an expert of 26 floats cannot be cut into 4 equal slices/ });
});

test("with one slice, as it is today, chunks have the hosts and blocks of experts", () => {
  assert.equal(slicesPerExpert, 1);
  for (const { hosts, primaries, blocks } of placements(50)) {
    assert.deepEqual(chunkHosts(hosts, primaries, slicesPerExpert), hosts);
    assert.deepEqual(chunkBlocks(blocks, slicesPerExpert), blocks);
  }
});

test("a chunk whose primary does not compute its expert has its primary and the expert's hosts", () => {
  assert.deepEqual(chunkHosts([[1, 3]], [1, 3, 0], 3), [
    [1, 3],
    [3, 1],
    [0, 1, 3],
  ]);
});
