// News in a status is told from the load of another window.
import assert from "node:assert/strict";
import { test } from "node:test";
import { sayTheSame } from "./figures.ts";

const status = {
  phase: "Committed",
  committedEpoch: 3,
  measured: { imbalancePercent: 110 },
  forecast: { errorPermille: 100 },
  ranks: [{ rank: 0, state: "active", epoch: 3, hostedBytes: 1000, loadPercent: 98 }],
  decision: { reason: "Balanced", message: "1.10 of 1.20", numbers: { imbalancePercent: 110 } },
};
const rank = status.ranks[0];

const same: Readonly<Record<string, object>> = {
  "another window of the same load": { measured: { imbalancePercent: 114 }, ranks: [{ ...rank, loadPercent: 94 }] },
  "other grounds for the same verdict": { decision: { reason: "Balanced", message: "1.14 of 1.20", numbers: { movesPossible: 1 } } },
};
const news: Readonly<Record<string, object>> = {
  "an imbalance that has moved by a step": { measured: { imbalancePercent: 115 } },
  "another verdict": { decision: { ...status.decision, reason: "Imbalanced" } },
  "a rank's epoch": { ranks: [{ ...rank, epoch: 4 }] },
  "a rank's bytes": { ranks: [{ ...rank, hostedBytes: 1001 }] },
  "a rank more": { ranks: [rank, { ...rank, rank: 1 }] },
  "a figure that was not there": { predicted: { imbalancePercent: 100 } },
  "a figure that is there no more": { measured: undefined },
};

for (const [what, change] of Object.entries(same))
  test(`${what} is no news`, () => assert.ok(sayTheSame(status, { ...status, ...change })));
for (const [what, change] of Object.entries(news)) test(`${what} is news`, () => assert.ok(!sayTheSame(status, { ...status, ...change })));

test("steps add up: what was written is what a figure is held against", () => {
  const at = (imbalancePercent: number) => ({ measured: { imbalancePercent } });
  assert.ok([101, 102, 103, 104].every((percent) => sayTheSame(at(100), at(percent))));
  assert.ok(!sayTheSame(at(100), at(105)));
});
