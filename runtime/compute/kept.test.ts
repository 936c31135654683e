import assert from "node:assert/strict";
import { test } from "node:test";
import { keptRoom } from "./kept.ts";

test("a name has the same memory from call to call, exactly as long as asked for, and more only when more is wanted", () => {
  const room = keptRoom();
  const first = room("x", 4);
  assert.equal(first.length, 4);
  assert.equal(room("x", 4), first);
  assert.equal(room("x", 3).buffer, first.buffer);
  assert.equal(room("x", 3).length, 3);
  assert.notEqual(room("y", 4).buffer, first.buffer);
  const larger = room("x", 5);
  assert.equal(larger.length, 5);
  assert.equal(room("x", 4).buffer, larger.buffer);
});
