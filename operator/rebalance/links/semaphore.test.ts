// Turns: how many run at once, and in which order the others follow.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Semaphore } from "./semaphore.ts";

test("so many run at once, and the others in the order in which they came, one for each that has ended", () => {
  const connecting = new Semaphore(2);
  const begun: number[] = [];
  for (const one of [1, 2, 3, 4]) connecting.enter(() => void begun.push(one));
  assert.deepEqual(begun, [1, 2]);
  connecting.leave();
  assert.deepEqual(begun, [1, 2, 3]);
  for (let i = 0; i < 3; i++) connecting.leave();
  assert.deepEqual(begun, [1, 2, 3, 4]);
  for (const one of [5, 6, 7]) connecting.enter(() => void begun.push(one));
  assert.deepEqual(begun, [1, 2, 3, 4, 5, 6], "all have ended, so that two are free again");
});
