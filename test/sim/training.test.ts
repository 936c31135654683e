// A sample of the fault search over worlds of training that fits a unit test; `npm run test:sim -- 1000 1 training` runs a thousand seeds.
import assert from "node:assert/strict";
import { test } from "node:test";
import { trainingRun } from "./training.ts";
import { trainingBugs } from "./training-plants.ts";

const [seeds, bugSeeds] = [30, 200];

async function mustHold(seed: number): Promise<void> {
  const { faults, log } = await trainingRun(seed);
  assert.deepEqual(faults, [], `seed ${seed}: ${log.join(" ")}`);
}

test("pods that die, freeze, come back, are added and leave cost training no bit, and a step at most each", async () => {
  for (let seed = 1; seed <= seeds; seed++) await mustHold(seed);
});

test("a seed of training is one story: run again, it goes the same way", async () => {
  const first = await trainingRun(2);
  assert.ok(first.epochs > 1);
  assert.deepEqual(await trainingRun(2), first);
});

for (const { name, plant, seen } of trainingBugs)
  test(`a planted bug of training is found, and only with it: ${name}`, async () => {
    const remove = plant();
    let found: number | undefined;
    try {
      for (let seed = 1; seed <= bugSeeds && found === undefined; seed++)
        if ((await trainingRun(seed)).faults.some((fault) => seen.test(fault))) found = seed;
    } finally {
      remove();
    }
    assert.ok(found !== undefined, `not found in ${bugSeeds} seeds`);
    await mustHold(found);
  });
