import assert from "node:assert/strict";
import { test } from "node:test";
import { reusedBuffers } from "./output-buffers.ts";

test("a name has the same memory from call to call, exactly as long as asked for, and more only when more is wanted", () => {
  const allocate = reusedBuffers();
  const first = allocate("x", 4);
  assert.equal(first.length, 4);
  assert.equal(allocate("x", 4), first);
  assert.equal(allocate("x", 3).buffer, first.buffer);
  assert.equal(allocate("x", 3).length, 3);
  assert.notEqual(allocate("y", 4).buffer, first.buffer);
  const larger = allocate("x", 5);
  assert.equal(larger.length, 5);
  assert.equal(allocate("x", 4).buffer, larger.buffer);
});
