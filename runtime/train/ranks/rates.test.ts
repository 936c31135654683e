// Rates that ranks measure as they train: the same on all of them, known after the first step, and without a mark on the bits.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { batchOf, testFssdp, testLearning } from "../../../test/builders/ranks.ts";
import { tinyModel } from "../../../test/builders/training.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { programOf } from "../../models/index.ts";
import { layoutOf } from "../layout.ts";
import { fssdpOf } from "./fssdp.ts";
import type { Fssdp } from "./plan.ts";
import type { StepEnd } from "./rank.ts";
import { World } from "./world.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
const program = programOf(config);
const layout = layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` }));
const batch = { sequences: 4, sequenceLength: 8, lanes: 4 };

/** Ends of steps, by step and rank, and the parameters after them. */
async function run(ranks: number, changed: Partial<Fssdp>) {
  const fssdp = { ...testFssdp, planner: "auto", lanesAtOnce: 4, ...changed } as const;
  const all = Array.from({ length: ranks }, (_, rank) => rank);
  const facts = { node: all, speed: all.map(() => 1) };
  const options = { program, layout, ...batch, ...testLearning, balance: [], fssdp, facts, threads: 1 };
  const world = await World.open(options, gaussian(3, layout.floats, 0.1));
  try {
    const ends: StepEnd[][] = [];
    for (let step = 1; step <= 4; step++) {
      const ids = [0, 1].map((seed) => randomIds(10 * step + seed, 32, program.vocab).data as Int32Array);
      const lanes = Array.from({ length: 4 }, (_, lane) => {
        const [inputs, targets] = ids.map((of) => of.slice(8 * lane, 8 * lane + 8)) as [Int32Array, Int32Array];
        return { inputs, targets };
      });
      ends.push((await Promise.all(world.ranks.map((rank) => rank.step(step, batchOf(lanes))))) as StepEnd[]);
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

test("ranks measure where neither seconds nor overlapDegree is given, and one alone has nobody to copy from", () => {
  const problem = { program, layout, ...batch, ranks: 3, wholeStep: false };
  assert.equal(fssdpOf({}, problem).measured, true);
  assert.equal(fssdpOf({ overlapDegree: 1 }, problem).measured, false);
  assert.equal(fssdpOf({ seconds: { row: 1, copy: 1 } }, problem).measured, false);
  assert.equal(fssdpOf({}, { ...problem, ranks: 1 }).measured, false);
});
