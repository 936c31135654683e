// Planners: what all hold to, how near they come to the best placement, and that on an even load or a slow link nobody who reckons expert replicas.

import assert from "node:assert/strict";
import { test } from "node:test";
import { trainingPlannerNames } from "../../../../crds/names.ts";
import { trainingPeers } from "../../../../test/peers/index.ts";
import { uniform } from "../../../kernels/random.ts";
import { secondsOf, trainingPlanner, wayOf } from "./index.ts";
import { type LayerProblem, primariesOnly, type TrainingPlanner } from "./planner.ts";

const planners: Readonly<Record<string, TrainingPlanner>> = {
  ...Object.fromEntries(trainingPlannerNames.map((name) => [name, trainingPlanner(name)])),
  ...trainingPeers,
};

/** Four ranks, eight experts, Zipf loads in an order of the seed. */
function problemOf(seed: number, changed: Partial<LayerProblem> = {}): LayerProblem {
  const draw = uniform(seed);
  const order = Array.from({ length: 8 }, (_, e) => ({ e, key: draw() })).sort((a, b) => a.key - b.key);
  const load = new Float64Array(8);
  for (const [place, { e }] of order.entries()) load[e] = Math.round(10_000 / (place + 1));
  return {
    load,
    primaries: [0, 0, 1, 1, 2, 2, 3, 3],
    ranks: 4,
    node: [0, 0, 1, 1],
    speed: new Float64Array(4).fill(1),
    free: [1, 1, 1, 1],
    overlap: 4,
    seconds: { row: 1e-5, expertReplica: 1e-2 },
    ...changed,
  };
}

const seconds = (name: string, problem: LayerProblem): number => {
  const planner = planners[name]!;
  const moved = { ...problem, primaries: planner.primaries?.([problem])[0] ?? problem.primaries };
  return secondsOf({ ...problem, overlap: planner.late ? 0 : problem.overlap }, wayOf(moved, planner.hosts(moved)));
};

for (const [name, planner] of Object.entries(planners)) {
  test(`${name}: the primary comes first, nobody holds an expert twice or beyond its room, and plans repeat`, () => {
    for (let seed = 0; seed < 8; seed++) {
      const problem = problemOf(seed, { free: [0, 1, 2, 3] });
      const primaries = planner.primaries?.([problem])[0] ?? problem.primaries;
      const hosts = planner.hosts({ ...problem, primaries });
      const expertReplicas = new Array<number>(problem.ranks).fill(0);
      for (const [expert, row] of hosts.entries()) {
        assert.equal(row[0], primaries[expert]);
        assert.equal(new Set(row).size, row.length);
        for (const rank of row.slice(1)) expertReplicas[rank] = expertReplicas[rank]! + 1;
      }
      for (const [rank, count] of expertReplicas.entries()) assert.ok(count <= problem.free[rank]!);
      for (let rank = 0; rank < 4; rank++) assert.equal(primaries.filter((primary) => primary === rank).length, 2, "seats are kept");
      assert.deepEqual(planner.hosts({ ...problem, primaries }), hosts);
    }
  });
}

test("auto comes within parts of a hundred of the best placement, and leaves expert parallelism behind", (t) => {
  const ratios = Array.from({ length: 100 }, (_, seed) => {
    const best = seconds("exact", problemOf(seed));
    return { auto: seconds("auto", problemOf(seed)) / best, ep: seconds("ep", problemOf(seed)) / best };
  });
  const mean = (of: "auto" | "ep"): number => Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio[of]), 0) / ratios.length);
  t.diagnostic(`times of the best: auto ${mean("auto").toFixed(3)}, ep ${mean("ep").toFixed(3)}`);
  assert.ok(mean("auto") <= 1.02, `${mean("auto")}`);
  assert.ok(mean("ep") > 1.3, `${mean("ep")}`);
});

test("no planner that reckons costs makes an expert replica where the load is even, or where one takes longer than it saves", () => {
  const even = { load: new Float64Array(8).fill(1000) };
  const slow = { seconds: { row: 1e-5, expertReplica: 100 }, overlap: 0 };
  const busy = { seconds: { row: 1e-5, expertReplica: 0, busy: 100 } };
  for (const name of ["auto", "late", "fastermoe", "flexmoe", "exact"] as const)
    for (const changed of [even, slow, busy]) {
      const problem = problemOf(1, changed);
      assert.deepEqual(planners[name]!.hosts(problem), primariesOnly(problem), name);
    }
  assert.ok(
    trainingPlanner("auto")
      .hosts(problemOf(1))
      .some((row) => row.length > 1),
    "the control has expert replicas",
  );
});

test("smartmoe's primaries lower the highest load or stay", () => {
  const highest = ({ load }: LayerProblem, primaries: readonly number[]): number =>
    Math.max(...[0, 1, 2, 3].map((rank) => primaries.reduce((sum, primary, e) => sum + (primary === rank ? load[e]! : 0), 0)));
  const falls = Array.from({ length: 40 }, (_, seed) => {
    const problem = problemOf(seed);
    return highest(problem, problem.primaries) - highest(problem, trainingPeers.smartmoe.primaries!([problem])[0]!);
  });
  assert.ok(falls.every((fall) => fall >= 0));
  assert.ok(falls.filter((fall) => fall > 0).length > 20);
});

test("exact refuses what it could not try", () => {
  const experts = Array.from({ length: 32 }, (_, e) => e % 4);
  const problem = problemOf(1, { primaries: experts, load: new Float64Array(32).fill(1), free: [4, 4, 4, 4] });
  assert.throws(() => trainingPeers.exact.hosts(problem), { code: "BadOption", message: /planner exact has .* take planner auto/ });
});
