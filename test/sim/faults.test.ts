import assert from "node:assert/strict";
import { test } from "node:test";
import { type FaultOptions, type FaultRun, faultRun } from "./faults.ts";
import { crawl, plantedBugs } from "./plants.ts";

/** `npm run test:sim` runs a thousand; these are a sample that fits a unit test. */
const seeds = 30;
const fewSeeds = 8;

function seedsUpTo(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i + 1);
}

async function mustHold(seed: number, options?: FaultOptions): Promise<void> {
  const run = await faultRun(seed, options);
  assert.deepEqual(run.faults, [], `seed ${seed}: ${run.log.join(" ")}`);
}

test("random faults between any two steps break no promise, and the cluster always converges", async () => {
  for (const seed of seedsUpTo(seeds)) await mustHold(seed);
});

test("a seed is one story: run again, it goes the same way", async () => {
  const [first, again] = [await faultRun(3), await faultRun(3)];
  assert.ok(first.steps.done > 0 && first.epochs > 1);
  assert.deepEqual(again, first);
});

test("experts of a rank that dies for good are repaired, although the first attempt fails", async () => {
  for (const seed of seedsUpTo(fewSeeds)) await mustHold(seed, { noSpare: true });
});

test("with minExpertReplicas every expert has its expert replicas in the end, whatever failed on the way", async () => {
  for (const seed of [...seedsUpTo(fewSeeds), 2240]) await mustHold(seed, { minExpertReplicas: 2 }); // the last one: expert replicas had to make way
});

test("a deployment shrinks and grows while all this happens", async () => {
  for (const seed of seedsUpTo(fewSeeds)) await mustHold(seed, { also: ["resize"] });
});

test("ranks that serve more than they hold lose no token and no plan, also where they shrink, grow and are lost for good", async () => {
  for (const seed of seedsUpTo(fewSeeds)) await mustHold(seed, { oversubscribed: true, also: ["resize"], noSpare: seed % 2 === 0 });
});

test("transfers that crawl past every deadline break no promise", async () => {
  for (const seed of seedsUpTo(fewSeeds)) await mustHold(seed, { only: crawl });
});

for (const bug of plantedBugs) {
  test(`a planted bug is found, and only with it: ${bug.name}`, async () => {
    const options = bug.only ? { only: bug.only } : {};
    const found = await firstSeed(bug.plant, (run) => run.faults.some((fault) => bug.seen.test(fault)), options);
    assert.ok(found !== undefined, `not found in ${seeds} seeds`);
    await mustHold(found, options);
  });
}

async function firstSeed(plant: () => () => void, found: (run: FaultRun) => boolean, options: FaultOptions): Promise<number | undefined> {
  const remove = plant();
  try {
    for (const seed of seedsUpTo(seeds)) if (found(await faultRun(seed, options))) return seed;
    return undefined;
  } finally {
    remove();
  }
}
