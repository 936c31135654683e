import assert from "node:assert/strict";
import { test } from "node:test";
import { faultTable } from "./report.ts";

test("the table has a line for each kind and one for all, with the middle, the 95th of a hundred and the most", () => {
  const many = Array.from({ length: 100 }, (_, i) => ({ kind: "many", recoveryMs: 1000 * (100 - i), stallMs: 100 * (i + 1) }));
  const table = faultTable([...many, { kind: "few", recoveryMs: 200_000, stallMs: 50 }]);
  assert.deepEqual(table.trim().split("\n").slice(2), [
    "| few | 1 | 200.0 | 200.0 | 200.0 | 0.1 | 0.1 | 0.1 |",
    "| many | 100 | 50.0 | 95.0 | 100.0 | 5.0 | 9.5 | 10.0 |",
    "| all | 101 | 51.0 | 96.0 | 200.0 | 5.0 | 9.5 | 10.0 |",
  ]);
});
