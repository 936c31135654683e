// Signs of life: a pod has to speak, or where it may be silent its connection has to.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Heartbeats } from "./heartbeats.ts";

const lookMs = 500;

/** The silence after each of so many looks, with the bytes that have come by then. */
function silences(heartbeats: Heartbeats, from: number, bytes: readonly number[]): number[] {
  return bytes.map((received, look) => heartbeats.look(from + (look + 1) * lookMs, received));
}

test("a pod that may not be silent has to speak, whatever its connection shows", () => {
  const heartbeats = new Heartbeats(lookMs, 0);
  assert.deepEqual(silences(heartbeats, 0, [1, 2, 3]), [500, 1_000, 1_500]);
  heartbeats.heard();
  assert.deepEqual(silences(heartbeats, 1_500, [4]), [500]);
});

test("one that may is heard by its connection, and has to speak when its time is over", () => {
  const heartbeats = new Heartbeats(lookMs, 0);
  heartbeats.allow(1_000);
  assert.deepEqual(
    silences(heartbeats, 0, [1, 2, 3, 4]),
    [500, 500, 500, 1_000],
    "the bytes go on: 2,000 ms unsaid, 1,000 of them allowed",
  );
  heartbeats.heard();
  assert.deepEqual(silences(heartbeats, 2_000, [4, 4, 4]), [1_000, 1_500, 2_000], "no bytes come");
});

test("a connection made anew counts its bytes anew, which is a sign too", () => {
  const heartbeats = new Heartbeats(lookMs, 0);
  heartbeats.allow(10_000);
  assert.deepEqual(silences(heartbeats, 0, [900, 900, 40]), [500, 1_000, 500]);
});
