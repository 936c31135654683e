import assert from "node:assert/strict";
import { test } from "node:test";
import { type Gaps, leastShare, nextShare, slowestTransferMs, summarize } from "./backoff.ts";

const quiet: Gaps = { count: 500, p90Ms: 100 };
const calm: Gaps = { count: 40, p90Ms: 104 };
const slow: Gaps = { count: 40, p90Ms: 180 };

test("latency that has risen halves the share, down to a least one", () => {
  const first = nextShare(1, quiet, slow);
  assert.deepEqual(
    [first.share, first.reason, first.message],
    [0.5, "LatencyRisen", "p90 between tokens 180.0 ms, 100.0 ms before the move"],
  );
  let share = 1;
  for (let i = 0; i < 10; i++) share = nextShare(share, quiet, slow).share;
  assert.equal(share, leastShare);
});

test("calm adds a step at a time, up to the whole limit", () => {
  let share = leastShare;
  const seen: number[] = [];
  for (let i = 0; i < 20; i++) {
    share = nextShare(share, quiet, calm).share;
    seen.push(share);
  }
  assert.equal(seen[0], leastShare + 1 / 16);
  assert.equal(seen.at(-1), 1);
  assert.ok(
    seen.every((value, i) => i === 0 || value >= (seen[i - 1] as number)),
    "it only grows",
  );
});

test("a little slower is no reason to slow down, and the edge belongs to calm", () => {
  assert.equal(nextShare(0.5, quiet, { count: 40, p90Ms: 125 }).reason, "Calm");
  assert.equal(nextShare(0.5, quiet, { count: 40, p90Ms: 125.1 }).reason, "LatencyRisen");
});

test("without enough gaps nothing is concluded; without any there is nothing to spare", () => {
  assert.deepEqual(nextShare(0.5, { count: 49, p90Ms: 1 }, slow), {
    share: 0.5,
    reason: "NoBaseline",
    message: "49 gaps between tokens before the move, 50 are needed",
  });
  assert.equal(nextShare(0.5, quiet, { count: 19, p90Ms: 900 }).reason, "TooFewTokens");
  assert.equal(nextShare(0.5, quiet, { count: 19, p90Ms: 900 }).share, 0.5);
  assert.equal(nextShare(0.5, quiet, { count: 0, p90Ms: 0 }).share, 0.5 + 1 / 16);
});

test("a p90 is one of the gaps, nine tenths of which are not above it", () => {
  assert.deepEqual(summarize([]), { count: 0, p90Ms: 0 });
  assert.deepEqual(summarize([7]), { count: 1, p90Ms: 7 });
  assert.deepEqual(summarize(Array.from({ length: 100 }, (_, i) => 100 - i)), { count: 100, p90Ms: 90 });
});

test("the slowest transfer is the one backed off all the way", () => {
  assert.equal(slowestTransferMs(1e6, 1e6), 1000 / leastShare);
  assert.equal(slowestTransferMs(1e6, 0), 0);
});
