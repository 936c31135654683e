// A sample of the fault search over moved keys and values that fits a unit test; `npm run test:sim -- 1000 1 kv` runs a thousand seeds.
import assert from "node:assert/strict";
import { test } from "node:test";
import { kvRun } from "./kv.ts";
import { kvBugs } from "./kv-plants.ts";

const [seeds, bugSeeds] = [20, 60];

async function mustHold(seed: number): Promise<void> {
  const { faults, log } = await kvRun(seed);
  assert.deepEqual(faults, [], `seed ${seed}: ${log.join(" ")}`);
}

test("drains, kills at any step of a transfer, evictions, damaged chunks and unlike ranks change no text, and every wait ends", async () => {
  for (let seed = 1; seed <= seeds; seed++) await mustHold(seed);
});

test("a seed of moved keys and values is one story: run again, it goes the same way", async () => {
  const first = await kvRun(3);
  assert.ok(first.epochs > 1 && first.steps.done > 100, JSON.stringify(first.steps));
  assert.deepEqual(await kvRun(3), first);
});

for (const { name, plant, seen } of kvBugs)
  test(`a planted bug of moved keys and values is found, and only with it: ${name}`, async () => {
    const remove = plant();
    let found: number | undefined;
    try {
      for (let seed = 1; seed <= bugSeeds && found === undefined; seed++)
        if ((await kvRun(seed)).faults.some((fault) => seen.test(fault))) found = seed;
    } finally {
      remove();
    }
    assert.ok(found !== undefined, `not found in ${bugSeeds} seeds`);
    await mustHold(found);
  });
