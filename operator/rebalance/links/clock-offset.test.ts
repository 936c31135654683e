import assert from "node:assert/strict";
import { test } from "node:test";
import { ClockOffset } from "./clock-offset.ts";

test("the quickest answer says how far a clock is ahead, and a clock that was set is followed after 8 answers", () => {
  const offset = new ClockOffset();
  assert.equal(offset.ms, undefined);
  offset.answered(1_000, 3_601_500, 3_000);
  assert.equal(offset.ms, 3_599_500, "a slow answer is better than none");
  offset.answered(4_000, 3_604_005, 4_010);
  assert.equal(offset.ms, 3_600_000);
  for (let i = 0; i < 7; i++) offset.answered(5_000 + i, 5_100 + i, 5_200 + i);
  assert.equal(offset.ms, 3_600_000);
  offset.answered(6_000, 6_100, 6_200);
  assert.equal(offset.ms, 0);
  offset.forget();
  assert.equal(offset.ms, undefined);
});

test("an answer from before its ping, or one that took longer than a stream may be silent, says nothing", () => {
  const offset = new ClockOffset();
  offset.answered(2_000, 1, 1_000);
  offset.answered(1_000, 1, 5_001);
  assert.equal(offset.ms, undefined);
});
