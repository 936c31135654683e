// A traced request gives its parent to a few steps, then to none.
import assert from "node:assert/strict";
import { test } from "node:test";
import { TracedRequests, tracedStepsMax } from "./requests.ts";

test("the first steps of a request are traced, later ones and those of others are not", () => {
  const traced = new TracedRequests();
  assert.equal(traced.take(["a"]), undefined);
  traced.add("a", "parent-a");
  assert.equal(traced.take(["b"]), undefined);
  for (let step = 0; step < tracedStepsMax; step++) assert.equal(traced.take(["b", "a"]), "parent-a");
  assert.equal(traced.take(["a"]), undefined);
});

test("a step of several traced requests counts for one of them only", () => {
  const traced = new TracedRequests();
  traced.add("a", "parent-a");
  traced.add("b", "parent-b");
  const parents = Array.from({ length: 2 * tracedStepsMax + 1 }, () => traced.take(["a", "b"]));
  assert.deepEqual(parents, [...Array(tracedStepsMax).fill("parent-a"), ...Array(tracedStepsMax).fill("parent-b"), undefined]);
});

test("a request that ended is forgotten", () => {
  const traced = new TracedRequests();
  traced.add("a", "parent-a");
  traced.drop("a");
  assert.equal(traced.take(["a"]), undefined);
});
