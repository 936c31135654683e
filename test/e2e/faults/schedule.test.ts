import assert from "node:assert/strict";
import { test } from "node:test";
import { drawn, scheduleOf } from "./schedule.ts";

const kinds = ["a", "b", "c", "d", "e", "f", "g"];

test("a seed gives the same turns each time, and another seed others", () => {
  assert.deepEqual(scheduleOf(1, 100, kinds), scheduleOf(1, 100, kinds));
  assert.notDeepEqual(scheduleOf(1, 100, kinds), scheduleOf(2, 100, kinds));
});

test("every kind has its turns, none more than one above another", () => {
  for (const seed of [1, 2, 3]) {
    const turns = scheduleOf(seed, 100, kinds);
    assert.equal(turns.length, 100);
    const counts = kinds.map((kind) => turns.filter((turn) => turn.kind === kind).length);
    assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, counts.join());
  }
});

test("a draw chooses one that is there, and says what is missing", () => {
  assert.equal(drawn(["x", "y", "z"], 7, "letter"), "y");
  assert.throws(() => drawn([], 7, "letter"), /no letter to strike/);
});
