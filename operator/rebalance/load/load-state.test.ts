import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadLoop } from "../../../test/kit/planner/load-loop.ts";
import { modelShape, rankSpec } from "../../../test/kit/planner/plan-input.ts";

/** What is asked when a skew of so many selections per window was planned for, and the load then drifts to 112%. */
async function askedAfterDrift(selections: number): Promise<string> {
  const ranks = [0, 1].map((rank) => rankSpec(rank, { budgetBytes: 3 }));
  const layer = { hosts: [[0], [0], [1], [1]], weights: [[1000], [1000], [1000], [1000]] };
  const loop = new LoadLoop(modelShape(1, 4), ranks, [layer], { near: false });
  const window = (percents: readonly number[]) => () => Uint32Array.from(percents, (percent) => (percent / 100) * (selections / 2));
  while (loop.reasons.length === 0 && loop.asked !== "Balanced") await loop.window(window([45, 35, 10, 10]));
  assert.equal(loop.reasons.length, 1, "the skew is planned for");
  await loop.window(window([47.25, 32.75, 10, 10]));
  return loop.asked;
}

test("a plan of half the tokens that a decision takes is soon refined, one of all of them left alone", async () => {
  assert.deepEqual([await askedAfterDrift(2_600), await askedAfterDrift(6_000)], ["Imbalanced", "WithinNoise"]);
});
