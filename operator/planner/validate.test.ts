import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlan } from "../../crds/plan.ts";
import { type PlanInput, unlimited } from "./policy.ts";
import { rankSpecs } from "./simulate.ts";
import { planFaults } from "./validate.ts";

function inputOf(experts: number, ranks: number): PlanInput {
  const bytes = new Float64Array(experts).fill(1);
  const shape = { layers: 1, experts, residentBytes: bytes, storedBytes: bytes };
  const load = new Float64Array(experts);
  return {
    shape,
    ranks: rankSpecs({ ranks }),
    load,
    current: undefined,
    budget: unlimited,
    minCopies: 1,
    split: "weighted",
    effort: "fast",
  };
}

const alone = (hosts: number[][]): LayerPlan[] => [{ hosts, shares: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))) }];

test("a host that is no rank number is a fault, also of an expert that may keep its lost home", () => {
  const unhosted = [{ layer: 0, expert: 0 }];
  const input = inputOf(2, 2);
  assert.deepEqual(planFaults(input, alone([[undefined as unknown as number], [1]]), { unhosted }), [
    "layer 0, expert 0: a rank is no natural number",
  ]);
  assert.deepEqual(planFaults(input, alone([[7], [1]]), { unhosted }), [], "its lost home");
  assert.deepEqual(planFaults(input, alone([[7], [1]])), ["layer 0, expert 0: rank 7 is not active"]);
});

test("an expert that found a host after all counts there", () => {
  const input = { ...inputOf(2, 1), slotsPerRank: 1 };
  const faults = planFaults(input, alone([[0], [0]]), { unhosted: [{ layer: 0, expert: 0 }] });
  assert.deepEqual(faults, ["layer 0: rank 0 hosts 2 experts, at most 1"]);
});

test("a plan that an ExpertPlacement cannot store is a fault", () => {
  const everywhere = Array.from({ length: 600 }, (_, rank) => rank);
  assert.match(planFaults(inputOf(1, 600), alone([everywhere])).join(), /600 hosts, at most 512/);
  const wide = everywhere.slice(0, 144);
  const [fault] = planFaults(inputOf(256, 144), alone(Array.from({ length: 256 }, () => wide)));
  assert.match(fault ?? "", /layer 0: \d+ characters of hosts, at most 65536 are stored/);
});
