import assert from "node:assert/strict";
import { test } from "node:test";
import { TransitionCounts } from "./transitions.ts";

const one = (cell: number, count: number) => ({ cells: Uint32Array.of(cell), counts: Uint32Array.of(count) });

test("nothing is known of transitions before enough tokens were followed", () => {
  const counts = new TransitionCounts(3, 4);
  counts.add(one(5, 255));
  assert.equal(counts.known(), undefined);
  counts.add(one(6, 1));
  assert.deepEqual([counts.known()?.[5], counts.known()?.[6], counts.fresh], [255, 1, true]);
});

test("what is known stays, and is fresh again when half of it is new", () => {
  const counts = new TransitionCounts(3, 4);
  counts.add(one(5, 1000));
  counts.used();
  assert.deepEqual([counts.fresh, counts.known() === undefined], [false, false]);
  counts.add(one(5, 900));
  assert.equal(counts.fresh, false);
  counts.add(one(5, 200));
  assert.equal(counts.fresh, true);
});

test("old windows fade, so that what holds now wins", () => {
  const counts = new TransitionCounts(2, 2);
  counts.add(one(0, 1000));
  for (let window = 0; window < 34; window++) counts.fade();
  counts.add(one(1, 600));
  const known = counts.known();
  assert.ok((known?.[0] ?? 0) < 510 && (known?.[1] ?? 0) === 600);
});

test("cells that the model does not have, and models too large to follow, are let be", () => {
  const counts = new TransitionCounts(2, 2);
  counts.add(one(4, 1000));
  assert.equal(counts.pairs, 0);
  assert.equal(new TransitionCounts(1000, 4000).known(), undefined);
});
