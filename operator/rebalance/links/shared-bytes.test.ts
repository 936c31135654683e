import assert from "node:assert/strict";
import { test } from "node:test";
import { sharedBytes } from "./shared-bytes.ts";

const values = (...of: readonly number[]): Float64Array => Float64Array.from(of);

test("equal values of one owner are one array; others are kept apart, and the oldest of many are forgotten", () => {
  const [owner, other] = [{}, {}];
  const first = sharedBytes(owner, values(1, 2));
  assert.equal(sharedBytes(owner, values(1, 2)), first);
  assert.notEqual(sharedBytes(owner, values(1, 3)), first);
  assert.notEqual(sharedBytes(owner, values(1, 2, 3)), first);
  assert.notEqual(sharedBytes(other, values(1, 2)), first);
  for (const value of [4, 5, 6]) sharedBytes(owner, values(value));
  const again = values(1, 2);
  assert.equal(sharedBytes(owner, again), again);
});
