// Rows of the benchmark of training: rates of what all ranks finished, ratios of the same rounds, bytes held to the laws, and verdicts
// where there is a limit.
import assert from "node:assert/strict";
import { test } from "node:test";
import { World } from "../../kit/training/local-ranks.ts";
import type { Took } from "./child.ts";
import { type Case, type RoundFigures, roundFigures, trainingRow } from "./rows.ts";
import { fssdpFor, learning } from "./settings.ts";
import { batchOf, plantedModel, type WorkloadName, workloadNames } from "./workloads.ts";

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

const sizes = { layers: 2, sequences: 4, sequenceLength: 64, microBatches: 2 };

/** Rows that the tokens of a step ask for, by expert. */
function asked(name: WorkloadName, step: number): number[] {
  const rows = new Array<number>(16).fill(0);
  for (const { inputs } of batchOf(name, step, sizes))
    for (const token of inputs) for (const expert of [Math.floor(token / 16), token % 16]) rows[expert]! += 1;
  return rows;
}

const sorted = (rows: ArrayLike<number>): number[] => Array.from(rows).sort((a, b) => b - a);
const worst = (rows: readonly number[]): number => (16 * Math.max(...rows)) / rows.reduce((a, b) => a + b, 0);

test("experts of every layer have the rows that the tokens ask for", async () => {
  const { program, layout, parameters } = plantedModel(sizes.layers, 16);
  const { sequences, sequenceLength, microBatches } = sizes;
  const fssdp = { ...fssdpFor("ep", microBatches), measured: false };
  const options = { program, layout, sequences, sequenceLength, microBatches, ...learning, fssdp, threads: 1 };
  const world = await World.open({ ...options, facts: { node: [0], speed: [1] } }, parameters);
  try {
    const want = asked("skewed", 1);
    const found = await world.step(1, batchOf("skewed", 1, sizes));
    const [first, second] = found!.rows.map((rows) => Array.from(rows));
    for (const rows of [first, second]) {
      const off = sorted(rows!).reduce((sum, value, i) => sum + Math.abs(value - sorted(want)[i]!), 0);
      assert.ok(off <= 0.04 * 2 * sequences * sequenceLength, `${off} rows are elsewhere`);
    }
    assert.notDeepEqual(first, second, "the layers have orders of their own");
    assert.ok(Number.isFinite(found!.loss));
  } finally {
    await world.close();
  }
});

test("balanced is even, bursts come and go, alternating has two orders, and the others are skewed all the time", () => {
  const over = (name: WorkloadName): number[] => Array.from({ length: 16 }, (_, i) => worst(asked(name, i + 1)));
  const of = Object.fromEntries(workloadNames.map((name) => [name, over(name)]));
  assert.ok(Math.max(...of.balanced!) < 1.6, "noise of 512 draws");
  for (const name of ["skewed", "drifting", "long-tail", "alternating"]) assert.ok(Math.min(...of[name]!) > 2, name);
  assert.deepEqual(
    of.bursty!.map((value) => value > 2.5),
    of.bursty!.map((_, i) => (i + 1) % 8 < 2),
  );
  const busiest = (step: number): number => asked("alternating", step).indexOf(Math.max(...asked("alternating", step)));
  assert.deepEqual([busiest(2), busiest(3), busiest(4)], [0, 15, 0]);
  assert.deepEqual(batchOf("skewed", 3, sizes), batchOf("skewed", 3, sizes));
});
