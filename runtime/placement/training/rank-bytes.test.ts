// The laws of memory on numbers reckoned by hand.
import assert from "node:assert/strict";
import { test } from "node:test";
import { expertReplicaBytes, rankBytes } from "./rank-bytes.ts";

test("with expert replicas dropped after forward, two of twelve layers are held: 83% less", () => {
  const kept = { expertReplicas: new Array<number>(12).fill(3), expert: 100, rematerialize: false };
  assert.equal(expertReplicaBytes(kept), 12 * 3 * 400);
  assert.equal(expertReplicaBytes({ ...kept, rematerialize: true }), 2 * 3 * 400);
});

test("a rank holds 16 bytes a parameter that it owns or shadows, expert replicas and sums of micro-batches at 4, and the dense part with sums of its gradients", () => {
  const dense = { dense: 1000, denseOwned: 250, tied: 200, stateBytes: (5 * 100 + 250) * 8, subtrees: 3 };
  const sizes = { expert: 100, frozen: 30, perturbed: 60, owned: 5, shadowed: 0, kept: 7 };
  const problem = { ...dense, ...sizes, expertReplicas: [2, 0, 1], rematerialize: false, partials: 2 };
  const state = 5 * 1600 + 250 * 16;
  const sums = 3 * 400 + 2 * 400 + (30 + 60) * 4 + 1000 * 4 + 1200 * 4 * 4;
  assert.deepEqual(rankBytes(problem), { state, sums, kept: 28, all: state + sums + 28 });
  const alone = { ...problem, denseOwned: 1000, stateBytes: (5 * 100 + 1000) * 8 };
  assert.equal(rankBytes(alone).all, state + 750 * 16 + sums - 1000 * 4 + 28, "one that owns all of the dense part has it once");
  assert.equal(rankBytes({ ...problem, shadowed: 750, stateBytes: 2 * 750 * 8 }).state, state + 750 * 16);
});
