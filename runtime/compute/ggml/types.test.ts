import assert from "node:assert/strict";
import { test } from "node:test";
import { fasterRows } from "./types.ts";

test("in packed memory the last rows of a block are filled up, where one by one they take longer; elsewhere nothing is added", () => {
  const rows = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 29, 31, 32];
  const want = [1, 2, 3, 4, 5, 6, 8, 8, 9, 12, 12, 16, 16, 16, 16, 17, 20, 32, 32, 32];
  assert.deepEqual(
    rows.map((each) => fasterRows(each, "CPU_REPACK")),
    want,
  );
  assert.deepEqual(
    rows.map((each) => fasterRows(each, "plain")),
    rows,
  );
});
