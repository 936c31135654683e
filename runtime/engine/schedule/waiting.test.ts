import assert from "node:assert/strict";
import { test } from "node:test";
import { overtakenMax, Waiting } from "./waiting.ts";

test("the lower priority number goes first, then who came first", () => {
  const waiting = new Waiting();
  for (const [arrival, priority] of [1, 0, -2, 0].entries()) waiting.add({ id: `${arrival}`, priority, arrival, overtaken: 0 });
  const order: string[] = [];
  for (let next = waiting.first(); next; next = waiting.first()) {
    order.push(next.id);
    waiting.take(next);
  }
  assert.deepEqual(order, ["2", "1", "3", "0"]);
});

test("a request is overtaken so often and no more, whatever comes after it", () => {
  const waiting = new Waiting();
  waiting.add({ id: "patient", priority: 9, arrival: 0, overtaken: 0 });
  let before = 0;
  for (let arrival = 1; ; arrival++) {
    waiting.add({ id: `${arrival}`, priority: 0, arrival, overtaken: 0 });
    const next = waiting.first()!;
    waiting.take(next);
    if (next.id === "patient") break;
    before += 1;
  }
  assert.equal(before, overtakenMax);
});
