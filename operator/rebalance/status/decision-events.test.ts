import assert from "node:assert/strict";
import { test } from "node:test";
import { HoldNews } from "./decision-events.ts";

const minute = 60_000;

test("a reason to hold is told when it changes, not in every window", () => {
  const news = new HoldNews();
  assert.ok(news.held("TooFewTokens", 0));
  for (let at = 1; at < 100; at++) assert.equal(news.held("TooFewTokens", at * minute), false, "the same since then");
  assert.ok(news.held("Balanced", 100 * minute));
});

test("reasons that take turns are told once in ten minutes each", () => {
  const news = new HoldNews();
  const told = Array.from({ length: 240 }, (_, n) => news.held(n % 2 === 0 ? "Balanced" : "WithinNoise", (n * minute) / 4)).filter(
    (is) => is,
  );
  assert.equal(told.length, 2 * 6, "in an hour");
});

test("after a plan every reason is news again", () => {
  const news = new HoldNews();
  assert.ok(news.held("Balanced", 0));
  news.acted();
  assert.ok(news.held("Balanced", minute));
});
