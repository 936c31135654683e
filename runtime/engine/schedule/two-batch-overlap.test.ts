// Halves are used where they are faster, and only where a step waits for other ranks.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Halving } from "./two-batch-overlap.ts";

/** Takes steps of 16 rows of decode, and counts those that were halved. */
function steps(halving: Halving, count: number, took: (halved: boolean) => { ms: number; waitedMs: number }): number {
  let halves = 0;
  for (let i = 0; i < count; i++) {
    const halved = halving.wants("decode", 16);
    if (halved) halves += 1;
    halving.took({ kind: "decode", rows: 16, halved, ...took(halved) });
  }
  return halves;
}

test("halves that are faster are used, and whole steps are tried now and then", () => {
  const halving = new Halving();
  const halves = steps(halving, 256, (halved) => ({ ms: halved ? 8 : 10, waitedMs: 4 }));
  assert.ok(halves > 245 && halves < 256, `${halves}`);
});

test("halves that are slower are only tried, and used once the machine makes them faster", () => {
  const halving = new Halving();
  const halves = steps(halving, 256, (halved) => ({ ms: halved ? 12 : 10, waitedMs: 4 }));
  assert.ok(halves >= 2 && halves < 8, `${halves}`);
  assert.ok(steps(halving, 1_024, (halved) => ({ ms: halved ? 7 : 10, waitedMs: 4 })) > 500);
});

test("a step that does not wait, or is small, stays whole", () => {
  const halving = new Halving();
  assert.equal(
    steps(halving, 200, (halved) => ({ ms: halved ? 1 : 10, waitedMs: 0.5 })),
    0,
  );
  for (let i = 0; i < 10; i++) halving.took({ kind: "prefill", rows: 32, halved: false, ms: 10, waitedMs: 9 });
  assert.equal(halving.wants("prefill", 32), false);
  assert.equal(halving.wants("decode", 7), false);
});
