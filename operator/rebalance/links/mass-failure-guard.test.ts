// A pod that is silent alone is lost after three seconds; where most of a fleet is, each of them has fifteen.
import assert from "node:assert/strict";
import { test } from "node:test";
import { disruptedMs, MassFailureGuard, silenceMs } from "./mass-failure-guard.ts";

const fleet = (pods: number) => {
  const guard = new MassFailureGuard();
  return { guard, watches: Array.from({ length: pods }, () => guard.watch()) };
};

test("one of many that is silent is lost, and so are those of a node", () => {
  const { guard, watches } = fleet(100);
  for (const [i, watch] of watches.entries()) assert.equal(watch.isLost(i < 50 ? silenceMs + 1 : 900), i < 50);
  assert.equal(guard.isDisrupted, false);
});

test("where most fall silent together nobody is lost at once", () => {
  const { guard, watches } = fleet(100);
  for (const watch of watches) assert.equal(watch.isLost(2_000), false);
  assert.equal(guard.isDisrupted, true);
  for (const watch of watches) assert.equal(watch.isLost(silenceMs + 1_000), false);
  for (const watch of watches) assert.equal(watch.isLost(disruptedMs + 1), true, "but not for ever");
});

test("it is over when they are heard again, and pods that are gone do not count", () => {
  const { guard, watches } = fleet(100);
  for (const watch of watches) watch.isLost(2_000);
  for (const watch of watches.slice(0, 60)) watch.isLost(100);
  assert.equal(guard.isDisrupted, false);
  for (const watch of watches.slice(0, 60)) watch.end();
  assert.equal(guard.isDisrupted, true, "40 of 40 are quiet");
  for (const watch of watches) watch.end();
  assert.equal(guard.isDisrupted, false);
});

test("of a few pods most may be on one node", () => {
  const { watches } = fleet(23);
  for (const watch of watches) watch.isLost(2_000);
  for (const watch of watches) assert.equal(watch.isLost(silenceMs + 1), true);
});
