// Rates that ranks measure as they train: the same on all of them, known after the first step, and without a mark on the bits.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { World } from "../../../test/kit/training/local-ranks.ts";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { batchOf, testFssdp, testLearning } from "../../../test/kit/training/training-ranks.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { programOf } from "../../models/index.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import type { Transport } from "../../net/collectives/transport.ts";
import { layoutOf } from "../model/layout.ts";
import { fssdpOf } from "./fssdp.ts";
import { Meter, measureWay, RankRates } from "./measured-rates.ts";
import type { StepEnd } from "./step-contract.ts";
import type { Fssdp } from "./step-plan.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
const program = programOf(config);
const layout = layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` }));
const batch = { sequences: 4, sequenceLength: 8, microBatches: 4 };

const microBatchesOf = (step: number) => {
  const ids = [0, 1].map((seed) => randomIds(10 * step + seed, 32, program.vocab).data as Int32Array);
  return Array.from({ length: 4 }, (_, microBatch) => {
    const [inputs, targets] = ids.map((of) => of.slice(8 * microBatch, 8 * microBatch + 8)) as [Int32Array, Int32Array];
    return { inputs, targets };
  });
};

/** Ends of steps, by step and rank, and the parameters after them; with a look at other data before each. */
async function run(ranks: number, changed: Partial<Fssdp>) {
  const fssdp = { ...testFssdp, planner: "auto", microBatchesAtOnce: 4, ...changed } as const;
  const all = Array.from({ length: ranks }, (_, rank) => rank);
  const facts = { node: all, speed: all.map(() => 1) };
  const options = { program, layout, ...batch, ...testLearning, fssdp, facts, threads: 1 };
  const world = await World.open(options, gaussian(3, layout.floats, 0.1));
  try {
    const ends: StepEnd[][] = [];
    for (let step = 1; step <= 4; step++) {
      const microBatches = microBatchesOf(step);
      const look = { step: step - 1, groups: 4, group: async (group: number) => microBatches[group]!, stopped: () => false };
      await Promise.all(world.ranks.map((rank) => rank.losses(look)));
      ends.push((await Promise.all(world.ranks.map((rank) => rank.step(step, batchOf(microBatches))))) as StepEnd[]);
    }
    return { ends, parameters: world.parameters() };
  } finally {
    await world.close();
  }
}

test("all ranks reckon with the same measured rates, again after steps 1, 2 and 4; bits are those of given ones", async () => {
  const measured = await run(3, { measured: true, reshardSteps: 100 });
  const given = await run(3, {});
  assert.deepEqual(measured.parameters, given.parameters);
  const rates = measured.ends.map((ranks) => ranks.map((end) => end.rates));
  for (const ranks of rates) for (const each of ranks) assert.deepEqual(each, ranks[0]);
  assert.ok(rates[0]?.[0] !== undefined && rates[0][0].seconds.row > 0);
  assert.notDeepEqual(rates[1], rates[0]);
  assert.deepEqual(rates[2], rates[1], "nothing is measured after step 3");
  assert.notDeepEqual(rates[3], rates[2]);
  assert.equal(given.ends[3]?.[0]?.rates, undefined);
});

test("rows that pass forward alone, of other data, are not measured", async ({ mock }) => {
  const taken = mock.method(Meter.prototype, "take").mock;
  await run(3, { measured: true, reshardSteps: 100 });
  const { calls } = taken;
  const rows = [0, 1, 2].map((time) => calls.slice(3 * time, 3 * time + 3).reduce((sum, { result }) => sum + result!.rows, 0));
  const ofStep = program.layers.reduce((sum, layer) => sum + (layer.kind === "dense" ? 0 : 32 * layer.topK), 0);
  assert.deepEqual(rows, [ofStep, ofStep, 2 * ofStep]);
});

test("a world that begins late in a run measures after its steps 1, 2 and 4, and before primaries may move", async () => {
  let now = 0;
  const meter = new Meter(() => now++);
  const rates = new RankRates({ transport: new Loopback(1).transport(0), meter, floats: 1, layers: 1, everySteps: 10 });
  const measured: number[] = [];
  for (let step = 5; step <= 10; step++) {
    await meter.around({ kind: "compute", name: "expert forward", layer: 0, rows: 1 }, async () => {});
    if ((await rates.after(step, { world: 1, step, plan: "" })) !== undefined) measured.push(step);
  }
  assert.deepEqual(measured, [5, 6, 8, 10]);
});

test("ranks measure where neither seconds nor overlapDegree is given, and one alone has nobody to copy from", () => {
  const problem = { program, layout, ...batch, ranks: 3, wholeStep: false };
  assert.equal(fssdpOf({}, problem).measured, true);
  assert.equal(fssdpOf({ overlapDegree: 1 }, problem).measured, false);
  assert.equal(fssdpOf({ seconds: { row: 1, expertReplica: 1 } }, problem).measured, false);
  assert.equal(fssdpOf({}, { ...problem, ranks: 1 }).measured, false);
});

const stamp = { world: 1, step: 1, plan: "a" };

/** Ranks whose frames take so long to be sent. */
function slowed(transport: Transport, ms: number): Transport {
  const { rank, ranks } = transport;
  return {
    rank,
    ranks,
    receive: (from, of, wanted) => transport.receive(from, of, wanted),
    async send(to, of, name, payload) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      await transport.send(to, of, name, payload);
    },
  };
}

test("waiting for a link is told apart from being busy", async () => {
  const hub = new Loopback(3);
  const ways = await Promise.all([0, 1, 2].map((rank) => measureWay(slowed(hub.transport(rank), 200), stamp, 1000)));
  for (const { seconds, busy } of ways) {
    assert.ok(seconds >= 0.19, `${seconds} s`);
    assert.ok(busy < seconds, `${busy} of ${seconds} s busy`);
  }
});

test("a rank that comes late is no time on the way of any", async () => {
  const hub = new Loopback(3);
  const ways = await Promise.all(
    [0, 1, 2].map(async (rank) => {
      if (rank === 2) await new Promise((resolve) => setTimeout(resolve, 400));
      return measureWay(hub.transport(rank), stamp, 1000);
    }),
  );
  for (const { seconds } of ways) assert.ok(seconds < 0.2, `${seconds} s`);
});

test("what is larger than a probe takes as much longer, and one rank alone has no way", async () => {
  const hub = new Loopback(2);
  const floats = 2 ** 24;
  const ways = await Promise.all([0, 1].map((rank) => measureWay(slowed(hub.transport(rank), 50), stamp, floats)));
  for (const { seconds } of ways) assert.ok(seconds >= 16 * 0.049, `${seconds} s for 16 probes' floats`);
  for (const rank of [0, 1]) assert.equal(hub.takeTraffic(rank, "way").received, 2 * 2 ** 22);
  assert.deepEqual(await measureWay(new Loopback(1).transport(0), stamp, floats), { seconds: 0, busy: 0 });
});
