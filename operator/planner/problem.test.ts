import assert from "node:assert/strict";
import { test } from "node:test";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { loadByWeights, splitLayer } from "../../runtime/placement/split.ts";
import { modelShape, planInput } from "../../test/kit/planner/plan-input.ts";
import { rankSpecs } from "./offline/simulate.ts";
import { windowOf } from "./offline/traces.ts";
import { generateTrace, presets } from "./offline/traces-generate.ts";
import { planFresh, planIncremental } from "./policies/incremental.ts";
import { type PlanInput, unlimited } from "./policy.ts";
import { toLayers, toProblem } from "./problem.ts";
import { relabelled } from "./search/relabel.ts";

const trace = generateTrace("t", { ...presets.qwen3_48x128, layers: 8, windows: 2 }, 3);
const input = (window: number, more: Partial<PlanInput> = {}): PlanInput => {
  const load = Float64Array.from(windowOf(trace, window));
  return planInput(modelShape(trace.layers, trace.experts), rankSpecs({ ranks: 16 }), { load, slotsPerRank: 9, ...more });
};

test("new weights are only for layers whose hosts change, or that they even out by more than a hundredth", () => {
  const current = planFresh(input(0)).layers;
  const next = input(1, { current });
  const problem = toProblem(next);
  const layers = toLayers(problem, problem.current ?? []);
  let kept = 0;
  layers.forEach((layer, l) => {
    const demand = next.load.subarray(l * trace.experts, (l + 1) * trace.experts);
    const hosts = problem.current?.[l] ?? [];
    const worst = (weights: readonly (readonly number[])[]): number => imbalance(loadByWeights(demand, hosts, weights, 16), problem.speed);
    const best = imbalance(splitLayer({ demand, hosts, speed: problem.speed }).load, problem.speed);
    assert.equal(layer === current[l], worst(current[l]?.weights ?? []) - best <= 0.01, `layer ${l}`);
    assert.ok(worst(layer.weights) <= best + 0.015, `layer ${l}`);
    if (layer === current[l]) kept++;
  });
  const same = toLayers(toProblem(input(0, { current })), toProblem(input(0, { current })).current ?? []);
  assert.deepEqual(diffPlans(current, same, () => 0).layers, [], "the same load asks for no other weights");
  assert.ok(kept < trace.layers, "the test would say nothing");
});

test("a plan of one move changes the layer that it is in, not all of them", () => {
  const current = planFresh(input(0)).layers;
  // Every expert's load has changed a little, so that every layer's best weights have.
  const load = Float64Array.from(windowOf(trace, 0), (rows, i) => rows * (1 + 0.005 * ((i % 3) - 1)));
  load[0] = (load[0] as number) * 4;
  const { layers } = planIncremental(input(0, { current, load, budget: { ...unlimited, maxMoves: 1 } }));
  const diff = diffPlans(current, layers, () => 0);
  assert.deepEqual([diff.moves.map((move) => move.layer), diff.layers], [[0], [0]]);
});

test("parts go to the ranks that hold most of them, those that nobody holds to the ranks that are left", () => {
  const hosts = [[3], [3], [3], [0]];
  const ranks = rankSpecs({ ranks: 4 });
  const input = planInput(modelShape(1, 4), ranks, { current: [{ hosts, weights: hosts.map(() => [1000]) }], effort: "fast" });
  // Part 0 overlaps with rank 3, parts 1 and 2 with none that is left, part 3 with rank 0.
  assert.deepEqual(relabelled(toProblem(input), 0, [[0], [1, 0], [2], [3]]), [[3], [1, 3], [2], [0]]);
});
