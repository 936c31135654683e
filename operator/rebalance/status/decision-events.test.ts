import assert from "node:assert/strict";
import { test } from "node:test";
import { HoldReasons } from "./decision-events.ts";

const minute = 60_000;

test("a reason to hold is told when it changes, not in every window", () => {
  const news = new HoldReasons();
  assert.ok(news.isNews("TooFewTokens", 0));
  for (let at = 1; at < 100; at++) assert.equal(news.isNews("TooFewTokens", at * minute), false, "the same since then");
  assert.ok(news.isNews("Balanced", 100 * minute));
});

test("reasons that take turns are told once in ten minutes each", () => {
  const news = new HoldReasons();
  const reported = Array.from({ length: 240 }, (_, n) => news.isNews(n % 2 === 0 ? "Balanced" : "WithinNoise", (n * minute) / 4)).filter(
    (is) => is,
  );
  assert.equal(reported.length, 2 * 6, "in an hour");
});

test("after a plan every reason is news again", () => {
  const news = new HoldReasons();
  assert.ok(news.isNews("Balanced", 0));
  news.clear();
  assert.ok(news.isNews("Balanced", minute));
});
