import assert from "node:assert/strict";
import { test } from "node:test";
import { ClockOffset } from "./clock-offset.ts";

test("the quickest answer says how far a clock is ahead, and a clock that was set is followed at once", () => {
  const offset = new ClockOffset();
  assert.equal(offset.ms, undefined);
  offset.answered(1_000, 3_601_500, 3_000);
  assert.equal(offset.ms, 3_599_500, "a slow answer is better than none");
  offset.answered(4_000, 3_604_005, 4_010);
  assert.equal(offset.ms, 3_600_000);
  offset.answered(5_000, 3_605_150, 5_200);
  assert.equal(offset.ms, 3_600_000, "what a slower one says is within its round trip");
  offset.answered(6_000, 6_100, 6_200);
  assert.equal(offset.ms, 0);
  for (let i = 0; i < 8; i++) offset.answered(7_000 + i, 7_180 + i, 7_300 + i);
  assert.equal(offset.ms, 30, "the last 8 answers count");
  offset.forget();
  assert.equal(offset.ms, undefined);
});

test("an answer from before its ping, or one that took longer than a stream may be silent, says nothing", () => {
  const offset = new ClockOffset();
  offset.answered(2_000, 1, 1_000);
  offset.answered(1_000, 1, 5_001);
  assert.equal(offset.ms, undefined);
});
