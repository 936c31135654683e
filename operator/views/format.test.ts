import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, listed, span } from "./format.ts";

test("spans are rounded down to one unit, and a time to come is none", () => {
  const cases = { 0: "0 s", 119999: "119 s", 120000: "2 min", 7199999: "119 min", 7200000: "2 h", 172799999: "47 h", 172800000: "2 d" };
  for (const [ms, want] of Object.entries(cases)) assert.equal(span(Number(ms)), want);
  assert.equal(ago(new Date(5_000), new Date(0)), "0 s ago");
});

test("lists name the first and count the others", () => {
  assert.equal(listed(["a", "b"], 2), "a, b");
  assert.equal(listed(["a", "b", "c"], 2), "a, b and 1 more");
  assert.equal(listed([], 2), "");
});
