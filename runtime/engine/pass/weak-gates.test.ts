// Weak experts: which pairs stay is told by their row alone, what stays weighs as much as all did, and marked rows keep all experts.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { dropWeakGates } from "./weak-gates.ts";

const sizes = { topK: 2, experts: 8, hidden: 64 };
const flat = (rows: number): Float32Array => new Float32Array(64 * rows).fill(1);

function dropped(gates: readonly number[], percent: number, h = flat(gates.length / 2)) {
  const out = { ids: Int32Array.from(gates, (_, i) => i % 8), gates: Float32Array.from(gates), h };
  dropWeakGates(out, { ...sizes, percent });
  return { ids: [...out.ids], gates: [...out.gates] };
}

test("a gate below the percent of its row's largest goes, and the others weigh as much as all", () => {
  const { ids, gates } = dropped([0.75, 0.25, 0.5, 0.5, 0.5, 0.125], 40);
  assert.deepEqual(ids, [0, 8, 2, 3, 4, 8]);
  assert.deepEqual(gates, [1, 0, 0.5, 0.5, 0.625, 0]);
  assert.deepEqual(dropped([0.75, 0.25], 33), { ids: [0, 1], gates: [0.75, 0.25] });
});

test("a row with a value far above its others keeps its experts", () => {
  const h = flat(2);
  h[70] = 10_000;
  assert.deepEqual(dropped([0.9, 0.1, 0.9, 0.1], 50, h).ids, [0, 8, 2, 3]);
});

test("free experts are neither left out nor scaled, and a row keeps its largest other expert", () => {
  const out = { ids: Int32Array.from([2, 9, 3, 9, 2, 3]), gates: Float32Array.from([0.75, 0.125, 0.25, 0.5, 0.25, 0.125]), h: flat(2) };
  dropWeakGates(out, { ...sizes, topK: 3, percent: 60 });
  assert.deepEqual([...out.ids], [2, 9, 8, 9, 2, 8]);
  assert.deepEqual([...out.gates], [1, 0.125, 0, 0.5, 0.375, 0]);
});

test("rows beside it change nothing of a row", () => {
  const gate = fc.double({ min: 0.01, max: 1, noNaN: true });
  fc.assert(
    fc.property(fc.array(fc.tuple(gate, gate), { minLength: 1, maxLength: 9 }), fc.integer({ min: 0, max: 100 }), (rows, percent) => {
      const all = dropped(rows.flat(), percent).gates;
      assert.deepEqual(
        all,
        rows.flatMap((row) => dropped(row, percent).gates),
      );
    }),
  );
});
