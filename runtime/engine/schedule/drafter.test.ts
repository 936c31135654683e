import assert from "node:assert/strict";
import { test } from "node:test";
import { Drafter } from "./drafter.ts";

test("what followed the same tokens before is guessed, more of it while guesses come true", () => {
  const drafter = new Drafter(8, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2]);
  assert.deepEqual(drafter.guess(8), []);
  drafter.push(3);
  assert.deepEqual(drafter.guess(8), [4, 5, 6, 7]);
  assert.deepEqual(drafter.guess(2), [4, 5]);
  drafter.learn(4, 4);
  assert.deepEqual(drafter.guess(20), [4, 5, 6, 7, 8, 9, 10, 11]);
  drafter.learn(8, 1);
  assert.deepEqual(drafter.guess(20), [4]);
});

test("guesses that do not come true become few", () => {
  const drafter = new Drafter(4, [1, 2, 3]);
  let guesses = 0;
  for (let i = 0; i < 400; i++) {
    for (const token of [1, 2, 3]) drafter.push(token);
    const { length } = drafter.guess(4);
    if (length === 0) continue;
    guesses += 1;
    drafter.learn(length, 0);
  }
  assert.ok(guesses > 20 && guesses < 50, `${guesses}`);
});
