import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { valuesPage } from "./values-page.ts";

const rows = (yaml: string): string[] => valuesPage(yaml).split("\n").slice(5, -1);

test("each key has a row with its default and the comment before it, in one line", () => {
  const yaml = "# A file.\n# -- First.\na: 1\nb:\n  # -- Inner, which\n  # goes on.\n  c: [x]\n  # no meaning\n  # -- A | B\n  d: {e: 2}\n";
  assert.deepEqual(rows(yaml), [
    "| `a` | `1` | First. |",
    '| `b.c` | `["x"]` | Inner, which goes on. |',
    '| `b.d` | `{"e":2}` | A \\| B |',
  ]);
});

test("a comment on a key with keys of its own makes it one row", () => {
  assert.deepEqual(rows("# -- X.\nx: 0\n# -- All of it.\na:\n  b: 1\n  c: 2\n"), [
    "| `x` | `0` | X. |",
    '| `a` | `{"b":1,"c":2}` | All of it. |',
  ]);
});

test("what is usual needs no comment, and what is not is refused by name", () => {
  assert.match(rows("# -- A.\na: 1\nimage:\n  digest: ''\n")[1] ?? "", /^\| `image\.digest` \| `""` \| Its digest/);
  assert.throws(() => valuesPage("# -- A.\na: 1\nb:\n  c: 1\n  d: 2\n"), /says nothing of b\.c, b\.d: put a comment/);
});

test("every key of the chart's values is in a row of the page", () => {
  const text = readFileSync(join(import.meta.dirname, "../charts/enodia/values.yaml"), "utf8");
  const known = rows(text).map((row) => row.split("`")[1] ?? "");
  const leaves = (value: any, path: string): string[] =>
    known.includes(path) || typeof value !== "object" || value === null
      ? [path]
      : Object.entries(value).flatMap(([key, inner]) => leaves(inner, path === "" ? key : `${path}.${key}`));
  const all = leaves(parse(text), "");
  assert.ok(all.length > 60);
  assert.deepEqual(all, known);
});
