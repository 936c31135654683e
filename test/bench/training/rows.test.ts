// Rows of the benchmark of training: rates of what all ranks finished, ratios of the same rounds, bytes held to the laws, and verdicts
// where there is a limit.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Took } from "./child.ts";
import { type Case, type RoundFigures, roundFigures, trainingRow } from "./rows.ts";

const times = { compute: 600, dispatch: 200, meeting: 100, spRS: 40, spAG: 20, host: 40 };

function took(changed: Partial<Took>): Took {
  return Object.assign(
    {
      ms: 1000,
      cpuMs: 500,
      times,
      expertMs: 300,
      rows: [[10, 10]],
      rates: undefined,
      losses: [],
      spans: [],
      law: { copies: 100, sums: 60 },
    },
    { sent: { copies: 50, sums: 30, rows: 120 } },
    changed,
  );
}

test("a round ends with its slowest rank, and bytes are held against the laws and against those of the cards", () => {
  const slow = took({ ms: 2000, rows: [[30, 10]] });
  const found = roundFigures({ took: [took({}), slow], cardBytes: 440, tokens: 4096, steps: 2 });
  assert.equal(found.tokensPerSecond, 2048);
  assert.deepEqual([found.computeMs, found.copiesMs, found.cpuMsPerStep], [300, 10, 500]);
  assert.deepEqual([found.toLaw, found.cardToPayload, found.megabytesPerStep], [1, 1.1, 0.0002]);
  assert.equal(found.imbalance, (1.5 + 1) / 2);
  const unlawful = roundFigures({ took: [took({ sent: { copies: 100, sums: 60 } }), took({})], cardBytes: 1, tokens: 1, steps: 1 });
  assert.equal(unlawful.toLaw, 1.5);
  const without = took({ sent: { rows: 10 }, law: { copies: 0, sums: 0 } });
  assert.equal(roundFigures({ took: [without], cardBytes: 1, tokens: 1, steps: 1 }).toLaw, 1);
});

const figures = (...rates: number[]): RoundFigures[] =>
  rates.map((tokensPerSecond) => {
    const found = roundFigures({ took: [took({})], cardBytes: Number.NaN, tokens: 1, steps: 1 });
    return Object.assign(found, { tokensPerSecond });
  });

const row = (changed: Partial<Case>) => {
  const [auto, ep, late] = [figures(140, 150, 160), figures(100, 100, 110), figures(150, 160, 170)];
  return trainingRow({ workload: "skewed", planner: "auto", figures: auto, ep, all: [auto, ep, late], peer: [], ...changed });
};

test("auto is judged by expert parallelism, the best of all and torch; others are not", () => {
  const near = row({});
  assert.deepEqual([near.tokensPerSecond, near.toEp, near.toBest, near.toTorch, near.cardToPayload], [150, 1.45, 0.94, "-", "-"]);
  assert.deepEqual([near.least, near.ok], ["0.97 of best, 1.35 of ep", false]);
  assert.equal(row({ all: [figures(140, 150, 160)] }).ok, true, "beside ep alone there is no best");
  assert.equal(row({ all: [], peer: [100, 100, 100] }).ok, true);
  const torch = row({ all: [], peer: [130, 130, 130] });
  assert.deepEqual([torch.toTorch, torch.ok], [1.15, false]);
  const other = row({ planner: "late" });
  assert.deepEqual([other.least, other.ok], ["-", "-"]);
  const even = row({ workload: "balanced", figures: figures(96, 100, 104), all: [] });
  assert.deepEqual([even.least, even.ok], ["0.95 of ep", true]);
});
