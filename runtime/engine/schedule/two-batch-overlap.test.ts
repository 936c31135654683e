// Halves are used where they are faster, and only where a step waits for other ranks.
import assert from "node:assert/strict";
import { test } from "node:test";
import { TwoBatchOverlap } from "./two-batch-overlap.ts";

/** Takes steps of 16 rows of decode, and counts those that were halved. */
function steps(overlap: TwoBatchOverlap, count: number, took: (overlapped: boolean) => { ms: number; waitedMs: number }): number {
  let twoBatches = 0;
  for (let i = 0; i < count; i++) {
    const overlapped = overlap.wants("decode", 16);
    if (overlapped) twoBatches += 1;
    overlap.took({ kind: "decode", rows: 16, overlapped, ...took(overlapped) });
  }
  return twoBatches;
}

test("halves that are faster are used, and whole steps are tried now and then", () => {
  const overlap = new TwoBatchOverlap();
  const twoBatches = steps(overlap, 256, (overlapped) => ({ ms: overlapped ? 8 : 10, waitedMs: 4 }));
  assert.ok(twoBatches > 245 && twoBatches < 256, `${twoBatches}`);
});

test("halves that are slower are only tried, and used once the machine makes them faster", () => {
  const overlap = new TwoBatchOverlap();
  const twoBatches = steps(overlap, 256, (overlapped) => ({ ms: overlapped ? 12 : 10, waitedMs: 4 }));
  assert.ok(twoBatches >= 2 && twoBatches < 8, `${twoBatches}`);
  assert.ok(steps(overlap, 1_024, (overlapped) => ({ ms: overlapped ? 7 : 10, waitedMs: 4 })) > 500);
});

test("a step that does not wait, or is small, stays whole", () => {
  const overlap = new TwoBatchOverlap();
  assert.equal(
    steps(overlap, 200, (overlapped) => ({ ms: overlapped ? 1 : 10, waitedMs: 0.5 })),
    0,
  );
  for (let i = 0; i < 10; i++) overlap.took({ kind: "prefill", rows: 32, overlapped: false, ms: 10, waitedMs: 9 });
  assert.equal(overlap.wants("prefill", 32), false);
  assert.equal(overlap.wants("decode", 7), false);
});
