// Sorted pairs: every pair has a place of its own among the rows of its expert, which lie side by side.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { sortPairs } from "./sorted-pairs.ts";

test("each pair lies among the rows of its expert, and holds its row, and a form's are together", () => {
  const anyIds = fc.record({ topK: fc.integer({ min: 1, max: 4 }), rows: fc.array(fc.array(fc.nat(7), { minLength: 4, maxLength: 4 })) });
  fc.assert(
    fc.property(anyIds, fc.nat(3), fc.nat(2), ({ topK, rows }, filling, forms) => {
      const ids = Int32Array.from(rows.flatMap((row) => row.slice(0, topK)));
      const formIn = (expert: number) => (expert * forms) % 5;
      const sorted = sortPairs(ids, { topK, experts: 8 }, { sizeOf: (count) => count + filling, formIn });
      const order = sorted.groups.map(({ expert }) => formIn(expert));
      assert.deepEqual(order, order.toSorted());
      const expertAt = sorted.groups.flatMap(({ expert, rows: own }) => new Array<number>(own).fill(expert));
      assert.equal(sorted.rows.length, expertAt.length);
      assert.equal(new Set(sorted.places).size, ids.length);
      for (const [at, place] of sorted.places.entries()) {
        const [row, k] = [at % rows.length, Math.floor(at / rows.length)];
        assert.equal(expertAt[place], ids[row * topK + k]);
        assert.equal(sorted.rows[place], row);
      }
      assert.equal(expertAt.length, ids.length + filling * new Set(ids).size);
    }),
  );
});
