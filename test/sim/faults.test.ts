import assert from "node:assert/strict";
import { test } from "node:test";
import { faultRun } from "./faults.ts";
import { plantedBugs } from "./plants.ts";

/** The benchmark runs a thousand; these are a sample that fits a unit test. */
const seeds = 25;
const searchMax = 60;

test("random faults between any two steps break no promise, and the cluster always converges", async () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const run = await faultRun(seed);
    assert.deepEqual(run.faults, [], `seed ${seed}: ${run.log.join(" ")}`);
  }
});

for (const bug of plantedBugs) {
  test(`a planted bug is found: ${bug.name}`, async () => {
    const { into, remove } = bug.plant();
    try {
      for (let seed = 1; seed <= searchMax; seed++) {
        const run = await faultRun(seed, into, bug.only);
        if (run.faults.some((fault) => bug.seen.test(fault))) return;
      }
      assert.fail(`not found in ${searchMax} seeds`);
    } finally {
      remove();
    }
  });
}
