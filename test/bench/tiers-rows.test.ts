import assert from "node:assert/strict";
import { test } from "node:test";
import { modelShape } from "../kit/planner/plan-input.ts";
import { foreseen, type TierFigures, tierRow } from "./tiers-rows.ts";

const figure = (rate: number, stallMs: number, more: Partial<TierFigures> = {}): TierFigures => ({
  ...{ rate, loads: stallMs, megabytes: 1, stallMs, foreseen: { loads: 10, stallMs: 10, waitMs: 10 } },
  ...{ ownBytes: 90e6, limitBytes: 100e6, sameText: true, peer: undefined },
  ...more,
});
const half = { ranks: 1, prefetch: "Off", percent: 50, streams: 1, all: [figure(100, 0)] };

test("a row holds where texts are equal, memory is within its limit, and tokens/s and stall are near what was foreseen", () => {
  const row = tierRow({ ...half, figures: [figure(45, 11), figure(50, 12), figure(55, 13)] });
  assert.deepEqual([row.tokensPerSecond, row.ofAll, row.foreseen, row.ofForeseen, row.ofForeseenMs, row.ok], [50, 0.5, 50, 1, 1.2, true]);
  assert.deepEqual([row.ownMegabytes, row.limitMegabytes, row.llamaCpp, row.least], [90, 100, "-", "-"]);
  for (const wrong of [figure(50, 14), figure(30, 10), figure(50, 10, { sameText: false }), figure(50, 10, { ownBytes: 101e6 })])
    assert.equal(tierRow({ ...half, figures: [wrong] }).ok, false);
});

test("llama.cpp is judged at half of the memory and one stream, and what is foreseen of several streams is not judged", () => {
  const slow = tierRow({ ...half, figures: [figure(50, 10, { peer: 40 })] });
  assert.deepEqual([slow.ratio, slow.least, slow.ok], [1.25, 1.5, false]);
  assert.equal(tierRow({ ...half, figures: [figure(50, 10, { peer: 30 })] }).ok, true);
  assert.equal(tierRow({ ...half, percent: 75, figures: [figure(50, 10, { peer: 60 })] }).least, "-");
  const several = tierRow({ ...half, streams: 8, figures: [figure(50, 99)] });
  assert.deepEqual([several.ofForeseen, several.ofForeseenMs, several.ok], [1, 9.9, true]);
});

test("the operator's forecast is asked with the memory of a rank and the rows that chose each expert", () => {
  const plan = { layers: [{ hosts: [[0], [0], [0], [0]], weights: [[1000], [1000], [1000], [1000]] }] };
  const of = (memoryBytes: number, together = 1) =>
    foreseen({
      ...{ shape: modelShape(1, 4, 10), plan: plan as never, topK: 1, memoryBytes, ranks: 1, together },
      ...{ routed: Float64Array.of(6, 2, 1, 1), bytesPerSecond: 1000 },
    });
  assert.equal(of(Number.POSITIVE_INFINITY).stallMs, 0);
  assert.ok(Math.abs(of(30).loads - 0.1) < 1e-9);
  assert.ok(Math.abs(of(30).stallMs - 10 * of(30).loads) < 1e-9);
  assert.ok(Math.abs(of(30, 2).loads - 0.095) < 1e-9, "two tokens choose one of the cold ones with 0.19 each");
});
