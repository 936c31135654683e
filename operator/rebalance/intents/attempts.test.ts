import assert from "node:assert/strict";
import { test } from "node:test";
import { Attempts, type Step } from "./attempts.ts";

const drain: Step = { kind: "drain", cost: "plan" };
const repair: Step = { kind: "repair", cost: "plan" };
const why = { reason: "Unavailable", message: "the API server does not answer" };

/** The pauses of a step that always fails. */
function pauses(what: Step, count: number): number[] {
  const attempts = new Attempts();
  let now = 0;
  return Array.from({ length: count }, () => {
    attempts.record(what, "a", { end: "failed", why }, now);
    const failed = now;
    while (!attempts.mayTry(what.kind, "a", now)) now += 500;
    return now - failed;
  });
}

test("a step that fails is tried again after a pause that doubles up to its bound", () => {
  assert.deepEqual(pauses(drain, 7), [2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
  assert.deepEqual(pauses({ kind: "recover", cost: "look" }, 5), [2_000, 4_000, 8_000, 10_000, 10_000]);
});

test("other members end a long pause, not the growth of it, and no other step is held up", () => {
  const attempts = new Attempts();
  for (let n = 0; n < 5; n++) attempts.record(drain, "a", { end: "failed", why }, 0);
  assert.equal(attempts.mayTry("drain", "a", 29_999), false);
  assert.deepEqual(attempts.paused("a", 29_999).get("drain"), why);
  assert.equal(attempts.mayTry("drain", "b", 1_999), false);
  assert.equal(attempts.mayTry("drain", "b", 2_000), true);
  attempts.record(drain, "b", { end: "failed", why }, 2_000);
  assert.equal(attempts.mayTry("drain", "b", 31_999), false);
  assert.equal(attempts.mayTry("repair", "a", 0), true);
});

test("members that come back after others find nothing settled", () => {
  const attempts = new Attempts();
  attempts.record(repair, "a", { end: "settled" }, 0);
  attempts.look("a");
  assert.equal(attempts.mayTry("repair", "a", 0), false);
  attempts.look("b");
  attempts.look("a");
  assert.equal(attempts.mayTry("repair", "a", 0), true);
});

test("what is settled waits for other members, what is done may be wanted at once", () => {
  const attempts = new Attempts();
  attempts.record(repair, "a", { end: "settled" }, 0);
  assert.equal(attempts.mayTry("repair", "a", 1e12), false);
  assert.equal(attempts.mayTry("repair", "b", 0), true);
  attempts.record(repair, "b", { end: "failed", why }, 0);
  attempts.record(repair, "b", { end: "done" }, 0);
  assert.equal(attempts.mayTry("repair", "b", 0), true);
});

test("what could not be emptied stays blocked until members change, and what is settled pauses without a reason", () => {
  const attempts = new Attempts();
  attempts.record(drain, "a", { end: "settled", blocked: new Map([[2, "no room"]]) }, 0);
  attempts.look("a");
  assert.deepEqual([...attempts.blocked("a")], [[2, "no room"]]);
  assert.deepEqual([...attempts.paused("a", 1e12)], [["drain", undefined]]);
  assert.deepEqual([...attempts.blocked("b"), ...attempts.paused("b", 0)], [], "also before it is told that they have changed");
  attempts.look("b");
  assert.deepEqual([...attempts.blocked("b"), ...attempts.paused("b", 0)], []);
});
