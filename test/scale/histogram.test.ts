import assert from "node:assert/strict";
import { test } from "node:test";
import { parseSamples } from "../../operator/views/prometheus-text.ts";
import { countOf, histogramOf, quantile, since } from "./histogram.ts";

const text = (counts: readonly number[]): string =>
  ["0.1", "0.2", "+Inf"]
    .map((le, i) => `s_bucket{controller="a",le="${le}"} ${counts[i]}\ns_bucket{controller="b",le="${le}"} 99`)
    .join("\n");
const read = (counts: readonly number[]) => histogramOf(parseSamples(text(counts)), "s", { controller: "a" });

test("a quantile lies on a straight line within its bucket, and beyond the last bound at that bound", () => {
  const all = read([50, 100, 100]);
  assert.equal(countOf(all), 100);
  assert.equal(quantile(all, 0.25), 0.05);
  assert.ok(Math.abs((quantile(all, 0.75) ?? 0) - 0.15) < 1e-9);
  assert.equal(quantile(read([0, 0, 10]), 0.5), 0.2);
  assert.equal(quantile(read([0, 0, 0]), 0.5), undefined);
});

test("what was counted before the first look is left out", () => {
  const between = since(read([50, 50, 50]), read([50, 60, 60]));
  assert.equal(countOf(between), 10);
  assert.ok((quantile(between, 0.5) ?? 0) > 0.1);
});
