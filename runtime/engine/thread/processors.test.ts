// Lists of processors, and which of them are a worker's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ownThreads, processorsIn } from "./processors.ts";

test("lists of processors are counted", () => {
  assert.deepEqual(["0", "0-3", "0-1,4,6-7", ""].map(processorsIn), [1, 4, 5, 0]);
});

test("only processors that were given, whole, are its own", () => {
  assert.equal(ownThreads({ online: 64, allowed: 8, available: 8 }), 8);
  assert.equal(ownThreads({ online: 64, allowed: 64, available: 64 }), 1, "the whole machine is everybody's");
  assert.equal(ownThreads({ online: 64, allowed: 64, available: 4 }), 1, "a quota gives time, no processors");
  assert.equal(ownThreads({ online: 64, allowed: 56, available: 4 }), 1, "a shared pool with a quota");
  assert.equal(ownThreads({ online: 64, allowed: 56, available: 56, whole: 0 }), 1, "a shared pool without one");
  assert.equal(ownThreads({ online: 64, allowed: 56, available: 56, whole: 8 }), 1, "a node without a static CPU manager for this pod");
  assert.equal(ownThreads({ online: 64, allowed: 8, available: 8, whole: 8 }), 8);
});
