// A sample of the search over leader elections; `npm run test:sim -- 1000 1 leaders` runs a thousand seeds.
import assert from "node:assert/strict";
import { test } from "node:test";
import { leaderBugs, leadersRun } from "./leaders.ts";

const [seeds, bugSeeds] = [40, 200];

async function mustHold(seed: number): Promise<void> {
  const { faults, log } = await leadersRun(seed);
  assert.deepEqual(faults, [], `seed ${seed}: ${log.join(" ")}`);
}

test("two replicas never lead at one moment, whatever links hold back and deliver late, and one leads in the end", async () => {
  for (let seed = 1; seed <= seeds; seed++) await mustHold(seed);
});

test("a seed of an election is one story", async () => assert.deepEqual(await leadersRun(3), await leadersRun(3)));

for (const { name, plant, seen } of leaderBugs)
  test(`a planted bug of the election is found, and only with it: ${name}`, async () => {
    const remove = plant();
    let found: number | undefined;
    try {
      for (let seed = 1; seed <= bugSeeds && found === undefined; seed++)
        if ((await leadersRun(seed)).faults.some((fault) => seen.test(fault))) found = seed;
    } finally {
      remove();
    }
    assert.ok(found !== undefined, `not found in ${bugSeeds} seeds`);
    await mustHold(found);
  });
