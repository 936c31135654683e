// Blocks of rows: those of one expert are neighbours, and are computed together as far as the bound allows.
import assert from "node:assert/strict";
import { test } from "node:test";
import { callsOf, RowPlan } from "./expert-rows.ts";

test("blocks of a rank's tokens lie by expert, then by micro-batch", () => {
  const counts = [
    [2, 0, 1],
    [3, 4, 0],
  ];
  const here = [{ from: 0, to: 2, host: 0 }];
  const plan = new RowPlan(counts, [here, here, here], [{ from: 0, to: 2 }]);
  assert.deepEqual(
    plan.between(0, 0).map(({ expert, microBatch, rows }) => [expert, microBatch, rows]),
    [
      [0, 0, 2],
      [0, 1, 3],
      [1, 1, 4],
      [2, 0, 1],
    ],
  );
});

test("a call has neighbours of one expert up to the bound, or one block that is larger", () => {
  const piece = (expert: number, rows: number) => ({ block: { microBatch: 0, expert, rows } });
  const pieces = [piece(0, 3), piece(0, 4), piece(0, 4), piece(1, 1), piece(1, 9), piece(1, 2)];
  assert.deepEqual(
    callsOf(pieces, 8).map((call) => call.map(({ block }) => [block.expert, block.rows])),
    [
      [
        [0, 3],
        [0, 4],
      ],
      [[0, 4]],
      [[1, 1]],
      [[1, 9]],
      [[1, 2]],
    ],
  );
});
