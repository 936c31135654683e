import assert from "node:assert/strict";
import { test } from "node:test";
import type { RolloutAnalysis } from "../../../crds/rollout.ts";
import { judgeCanaries } from "./canary.ts";
import type { ComparedTotals } from "./world.ts";

const served = (more: Partial<ComparedTotals> = {}): ComparedTotals => ({
  requests: 100,
  failed: 0,
  gaps: 1000,
  gapMicros: 20_000_000,
  ...more,
});
const judged = (more: Partial<RolloutAnalysis>, canaries?: ComparedTotals, others?: ComparedTotals) => {
  const verdict = judgeCanaries({ bake: "5m", minRequests: 20, ...more }, { canaries, others });
  return verdict.type === "Failed" ? verdict.reason : verdict.type;
};
const both = { errorRatePercent: 5, latencyPercent: 150 };

const cases: Record<string, { analysis: Partial<RolloutAnalysis>; canaries?: ComparedTotals; others?: ComparedTotals; want: string }> = {
  "time alone decides where nothing is compared": { analysis: {}, want: "Passed" },
  alike: { analysis: both, canaries: served(), others: served(), want: "Passed" },
  "canaries that say nothing": { analysis: both, others: served(), want: "Unknown" },
  "other ranks that say nothing": { analysis: both, canaries: served(), want: "Unknown" },
  "too few requests of canaries, though all of them failed": {
    analysis: both,
    canaries: served({ requests: 19, failed: 19 }),
    others: served(),
    want: "Unknown",
  },
  "too few requests of the others": { analysis: both, canaries: served({ failed: 50 }), others: served({ requests: 0 }), want: "Unknown" },
  "as many errors more as are allowed": { analysis: both, canaries: served({ failed: 7 }), others: served({ failed: 2 }), want: "Passed" },
  "one more": { analysis: both, canaries: served({ failed: 8 }), others: served({ failed: 2 }), want: "ErrorRateExceeded" },
  "errors that all have": { analysis: both, canaries: served({ failed: 50 }), others: served({ failed: 50 }), want: "Passed" },
  "errors that nobody asks about": {
    analysis: { latencyPercent: 150 },
    canaries: served({ failed: 50 }),
    others: served(),
    want: "Passed",
  },
  "as slow as is allowed": { analysis: both, canaries: served({ gapMicros: 30_000_000 }), others: served(), want: "Passed" },
  slower: { analysis: both, canaries: served({ gapMicros: 30_000_001 }), others: served(), want: "LatencyExceeded" },
  "slowness that nobody asks about": {
    analysis: { errorRatePercent: 5 },
    canaries: served({ gapMicros: 90_000_000 }),
    others: served(),
    want: "Passed",
  },
  "requests without a second token": { analysis: both, canaries: served({ gaps: 0, gapMicros: 0 }), others: served(), want: "Unknown" },
  "a rank for prefill, which makes first tokens alone": {
    analysis: both,
    canaries: served(),
    others: served({ gaps: 0, gapMicros: 0, isPrefill: true }),
    want: "Passed",
  },
  "nothing at all where nothing is needed": {
    analysis: { ...both, minRequests: 0 },
    canaries: served({ requests: 0, gaps: 0, gapMicros: 0 }),
    others: served(),
    want: "Unknown",
  },
};
for (const [sentence, { analysis, canaries, others, want }] of Object.entries(cases))
  test(`canaries are compared: ${sentence}`, () => assert.equal(judged(analysis, canaries, others), want));

test("a verdict has its numbers", () => {
  const say = (canaries: ComparedTotals) => judgeCanaries({ bake: "5m", minRequests: 20, ...both }, { canaries, others: served() }).message;
  assert.equal(say(served({ failed: 9 })), "canaries failed 9 of 100 requests (9.0%), other ranks 0.0%; 5 points more are allowed");
  assert.equal(
    say(served({ gapMicros: 40_000_000 })),
    "canaries take 40.0 ms from token to token, other ranks 20.0 ms: 200.0%, at most 150% are allowed",
  );
  assert.equal(say(served({ requests: 3 })), "canaries have ended 3 of 20 requests");
});
