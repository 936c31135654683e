import assert from "node:assert/strict";
import { test } from "node:test";
import { expertBudgetBytes } from "./expert-bytes.ts";

const model = { denseBytes: 100, kvBytes: 50, backend: "cpu", device: "cpu: x" };

test("a configured budget stands, and without one the container limit decides", () => {
  assert.equal(expertBudgetBytes(7, model, { limit: 1000, total: 9000 }), 7);
  assert.equal(expertBudgetBytes(0, model, { limit: 1000, total: 9000 }), 700);
  assert.equal(expertBudgetBytes(0, model, { limit: 0, total: 2000 }), 1550, "no limit: the machine");
  assert.equal(expertBudgetBytes(0, model, { limit: 9.2e18, total: 2000 }), 1550, "cgroup v1 without a limit");
  assert.equal(expertBudgetBytes(0, model, { limit: 100, total: 2000 }), 0, "never negative");
});
