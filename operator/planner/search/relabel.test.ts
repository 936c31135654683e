import assert from "node:assert/strict";
import { test } from "node:test";
import { rankSpecs } from "../offline/simulate.ts";
import { type PlanInput, unlimited } from "../policy.ts";
import { toProblem } from "../problem.ts";
import { relabelled } from "./relabel.ts";

test("parts go to the ranks that hold most of them, those that nobody holds to the ranks that are left", () => {
  const bytes = new Float64Array(4).fill(1);
  const hosts = [[3], [3], [3], [0]];
  const input: PlanInput = {
    ...{ shape: { layers: 1, experts: 4, residentBytes: bytes, storedBytes: bytes }, ranks: rankSpecs({ ranks: 4 }), load: bytes },
    ...{
      current: [{ hosts, weights: hosts.map(() => [1000]) }],
      budget: unlimited,
      minExpertReplicas: 1,
      split: "weighted",
      effort: "fast",
    },
  };
  // Part 0 overlaps with rank 3, parts 1 and 2 with none that is left, part 3 with rank 0.
  assert.deepEqual(relabelled(toProblem(input), 0, [[0], [1, 0], [2], [3]]), [[3], [1, 3], [2], [0]]);
});
