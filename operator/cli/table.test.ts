import assert from "node:assert/strict";
import { test } from "node:test";
import { table, wrapped } from "./table.ts";

test("columns are two spaces apart, numbers on the right, and wide characters count", () => {
  assert.equal(
    table(
      ["NAME", "N"],
      [
        ["日本", "1.5"],
        ["x", "-"],
      ],
    ),
    "NAME    N\n日本  1.5\nx       -",
  );
  assert.equal(table(["A", "B"], []), "A  B");
});

test("texts are parted between words, and a word that is longer than a line stays whole", () => {
  assert.deepEqual(wrapped("  why  one two three", 12, 7), ["  why  one", "       two", "       three"]);
  assert.deepEqual(wrapped("  do   kubectl-with-a-long-name x", 10, 7), ["  do   kubectl-with-a-long-name", "       x"]);
  assert.deepEqual(wrapped("short", 80, 7), ["short"]);
});
