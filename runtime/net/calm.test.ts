// Statuses of a watched pod that are left out, and those that are not.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Calm, calmMsMax } from "./calm.ts";

test("a status is left out while it is allowed, brings no news, and the last one is young", () => {
  const calm = new Calm();
  assert.equal(calm.spares("a", 0), false, "nothing was sent");
  calm.sent("a", 0);
  assert.equal(calm.spares("a", 1), false, "nothing was allowed");
  calm.allow(1_000);
  assert.equal(calm.spares("a", 999), true);
  assert.equal(calm.spares("a", 1_000), false);
  assert.equal(calm.spares("b", 1), false, "news");
  calm.sent("b", 500);
  assert.equal(calm.spares("b", 1_499), true);
  calm.allow(0);
  assert.equal(calm.spares("b", 501), false, "it is allowed no more");
});

test("an answer to a ping, which tells the clock, comes before a status is due", () => {
  const calm = new Calm();
  calm.allow(1_000);
  calm.sent("a", 0);
  assert.equal(calm.spares("a", 499, true), true);
  assert.equal(calm.spares("a", 500, true), false);
  assert.equal(calm.spares("a", 500), true);
});

test("what is allowed is bounded", () => {
  const calm = new Calm();
  calm.sent("a", 0);
  calm.allow(4_000_000_000);
  assert.equal(calm.spares("a", calmMsMax - 1), true);
  assert.equal(calm.spares("a", calmMsMax), false);
});
