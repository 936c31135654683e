// Silence that counts, and peers that are slow but not gone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Indulgence, Silence } from "./silence.ts";

test("silence counts from the last word, and not while the listener stood still", () => {
  const silence = new Silence(250, 1_000);
  assert.equal(silence.look(1_250), 250);
  assert.equal(silence.look(1_500), 500);
  silence.heard();
  assert.equal(silence.look(1_800), 300);
  assert.equal(silence.look(9_800), 800);
});

test("a connection that was heard is made anew, one that does not stand yet is given time", () => {
  const indulgence = new Indulgence();
  assert.deepEqual(
    [true, false, false, false, false, true, false].map((spoke) => indulgence.ended(spoke)),
    [true, false, false, true, false, true, false],
  );
});

test("a peer that was only slow has more time for a while, up to a bound; one that was gone has not", () => {
  const indulgence = new Indulgence();
  indulgence.back(12_000, 0);
  assert.equal(indulgence.factor(0), 1);
  for (const [now, factor] of [
    [1_000, 2],
    [5_000, 4],
    [9_000, 4],
  ] as const) {
    indulgence.back(700, now);
    assert.equal(indulgence.factor(now), factor);
  }
  assert.equal(indulgence.factor(68_000), 4);
  assert.equal(indulgence.factor(70_000), 1);
});
