// Blocks: every row has one host that holds its expert, hosts of an expert take micro-batches in order, and loads come out as even as micro-batches
// allow.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { dispatchNames } from "../../../crds/names.ts";
import { uniform } from "../../kernels/random.ts";
import { imbalance } from "../imbalance.ts";
import { type BlockProblem, dealBlocks, rowsOfRanks } from "./blocks.ts";
import { microBatchIntervals, ranksOfMicroBatches } from "./micro-batches.ts";
import { expertReplicasOfHottest } from "./planners/index.ts";

const problems = fc
  .record({
    ranks: fc.integer({ min: 1, max: 6 }),
    experts: fc.integer({ min: 1, max: 9 }),
    log: fc.integer({ min: 3, max: 5 }),
    seed: fc.integer(),
  })
  .map(({ ranks, experts, log, seed }): BlockProblem => {
    const draw = uniform(seed);
    const below = (n: number): number => Math.floor(draw() * n);
    const intervals = microBatchIntervals(
      2 ** log,
      new Float64Array(ranks).map(() => 1 + below(3)),
    );
    const rows = Array.from({ length: 2 ** log }, () => Array.from({ length: experts }, () => Math.max(0, below(20) - 5)));
    const hosts = Array.from({ length: experts }, () => {
      const primary = below(ranks);
      return [primary, ...Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => rank !== primary && draw() < 0.5)];
    });
    return { rows, hosts, intervals, speed: new Float64Array(ranks).map(() => 1 + below(2)) };
  });

for (const name of dispatchNames) {
  test(`${name}: each row of an expert has one of its hosts, which has micro-batches that lie together`, () => {
    fc.assert(
      fc.property(problems, (problem) => {
        const blocks = dealBlocks(name, problem);
        for (const [expert, runs] of blocks.entries()) {
          const hosts = runs.map(({ host }) => host);
          assert.equal(new Set(hosts).size, hosts.length, "a host has one run");
          for (const host of hosts) assert.ok(problem.hosts[expert]!.includes(host));
          for (const [microBatch, rows] of problem.rows.entries()) {
            const found = runs.filter(({ from, to }) => from <= microBatch && microBatch < to).length;
            assert.ok(found === 1 || (found === 0 && rows[expert] === 0));
          }
        }
      }),
    );
  });
}

test("LocalFirst leaves rows at their own rank wherever that hosts the expert", () => {
  fc.assert(
    fc.property(problems, (problem) => {
      const rankOf = ranksOfMicroBatches(problem.intervals);
      for (const [expert, runs] of dealBlocks("LocalFirst", problem).entries())
        for (const { host, from, to } of runs)
          for (let microBatch = from; microBatch < to; microBatch++)
            if (problem.hosts[expert]!.includes(rankOf[microBatch]!)) assert.equal(host, rankOf[microBatch]);
    }),
  );
});

/** Mean of max/mean over seeds at Zipf 1.0, micro-batches that differ, with two expert replicas a rank. */
function evenness(ranks: number, experts: number, deal: (problem: BlockProblem) => Float64Array): number {
  const seeds = 40;
  let sum = 0;
  for (let seed = 0; seed < seeds; seed++) {
    const draw = uniform(seed);
    const order = Array.from({ length: experts }, (_, e) => ({ e, key: draw() })).sort((a, b) => a.key - b.key);
    const share = new Float64Array(experts);
    for (const [place, { e }] of order.entries()) share[e] = 1 / (place + 1);
    const rows = Array.from({ length: 32 }, () => Array.from(share, (value) => Math.round(value * 100 * (0.75 + draw() / 2))));
    const load = Array.from(share, (_, e) => rows.reduce((total, row) => total + row[e]!, 0));
    const speed = new Float64Array(ranks).fill(1);
    const primaries = Array.from({ length: experts }, (_, e) => Math.floor((e * ranks) / experts));
    const free = new Array<number>(ranks).fill(2);
    const seconds = { row: 1, expertReplica: 0 };
    const hosts = expertReplicasOfHottest({ load, primaries, ranks, node: speed, speed, free, overlap: 4, seconds }, 4);
    sum += imbalance(deal({ rows, hosts, intervals: microBatchIntervals(32, speed), speed }), speed);
  }
  return sum / seeds;
}

test("Exact evens loads to some parts in a hundred, where LocalFirst leaves tens", (t) => {
  for (const [ranks, experts] of [
    [4, 8],
    [8, 32],
  ] as const) {
    const of = (name: (typeof dispatchNames)[number]): number =>
      evenness(ranks, experts, (problem) => rowsOfRanks(problem.rows, dealBlocks(name, problem), ranks));
    const [exact, local] = [of("Exact"), of("LocalFirst")];
    t.diagnostic(`${ranks} ranks, ${experts} experts: Exact ${exact.toFixed(3)}, LocalFirst ${local.toFixed(3)}`);
    assert.ok(exact < 1.05, `${exact}`);
    assert.ok(local > exact + 0.03, `${local}`);
  }
});
