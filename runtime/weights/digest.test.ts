import assert from "node:assert/strict";
import { test } from "node:test";
import { sha256Hex, sha256InSlices } from "./digest.ts";

test("hashing in slices gives the hash of the whole, and lets others have their turn", async () => {
  const bytes = new Uint8Array(9 * 1024 * 1024 + 5).map((_, i) => i % 251);
  let turns = 0;
  let counting = true;
  const count = () => {
    turns += 1;
    if (counting) setImmediate(count);
  };
  setImmediate(count);
  assert.equal(await sha256InSlices(bytes), sha256Hex(bytes));
  counting = false;
  assert.ok(turns >= 2, `${turns} turns in three slices`);
  assert.equal(await sha256InSlices(new Uint8Array(0)), sha256Hex(new Uint8Array(0)));
});
