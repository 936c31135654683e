import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlan } from "../../crds/plan.ts";
import { byPath } from "../../runtime/placement/cost.ts";
import { modelShape, planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import type { PlanInput } from "./policy.ts";
import { type Situation, whetherToMove, whetherToPlan } from "./replan.ts";

const imbalanced: Situation = {
  mode: "Auto",
  synced: true,
  telemetryAgeMs: 2000,
  staleAfterMs: 30_000,
  missingRanks: [],
  activeRanks: 3,
  selectionsPerLayer: 20_000,
  minTokens: 5000,
  sinceLastPlanMs: 60_000,
  intervalMs: 15_000,
  intervalFactor: 1,
  alarm: false,
  imbalance: 1.6,
  triggerPercent: 110,
  noise: 0.02,
  layers: 1,
  settled: false,
};

test("fresh, synced and imbalanced: plan", () => {
  assert.deepEqual(whetherToPlan(imbalanced).act, true);
});

test("a settled placement that drifts beyond chance is planned again", () => {
  for (const change of [{ imbalance: 1.16 }, { imbalance: 1.19, layers: 30 }])
    assert.equal(whetherToPlan({ ...imbalanced, settled: true, ...change }).reason, "Imbalanced");
});

const held: Record<string, [Partial<Situation>, string]> = {
  "mode Off": [{ mode: "Off" }, "ModeOff"],
  "one rank": [{ activeRanks: 1 }, "SingleRank"],
  "a rank behind": [{ synced: false }, "NotSynced"],
  "old load": [{ telemetryAgeMs: 31_000 }, "TelemetryStale"],
  "load never heard": [{ telemetryAgeMs: Number.POSITIVE_INFINITY }, "TelemetryStale"],
  "a silent rank": [{ missingRanks: [2] }, "PartialRanks"],
  "little traffic": [{ selectionsPerLayer: 4999, imbalance: 1.19 }, "TooFewTokens"],
  "hardly any traffic": [{ selectionsPerLayer: 2499 }, "TooFewTokens"],
  balance: [{ imbalance: 1.09 }, "Balanced"],
  "what may be chance": [{ imbalance: 1.11 }, "WithinNoise"],
  "a settled placement that drifts a little": [{ imbalance: 1.14, settled: true }, "WithinNoise"],
  "a settled placement whose worst of many layers stands out by chance": [{ imbalance: 1.17, settled: true, layers: 30 }, "WithinNoise"],
  "a plan a moment ago": [{ sinceLastPlanMs: 5000 }, "Interval"],
};
for (const [name, [change, wantReason]] of Object.entries(held)) {
  test(`${name} holds the planner with ${wantReason} and says so`, () => {
    const decision = whetherToPlan({ ...imbalanced, ...change });
    assert.equal(decision.act, false);
    assert.equal(decision.reason, wantReason);
    assert.ok(decision.message.length > 10);
  });
}

test("a longer interval says why, and how long", () => {
  const { message, numbers } = whetherToPlan({ ...imbalanced, sinceLastPlanMs: 20_000, intervalMs: 60_000, intervalFactor: 4 });
  assert.match(message, /last plan 20.0 s ago, at least 60.0 s apart, 4 times the usual while the load holds still/);
  assert.deepEqual(numbers, { sinceMs: 20_000, intervalMs: 60_000 });
});

test("a change of load does not wait for the interval", () => {
  assert.ok(whetherToPlan({ ...imbalanced, sinceLastPlanMs: 1000, alarm: true }).act);
});

const alone = (hosts: number[][]): LayerPlan[] => [{ hosts, weights: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))) }];
const ranks = [0, 1].map((rank) => rankSpec(rank, { budgetBytes: 1e7, zone: "", node: "" }));
const input = planInput(modelShape(1, 4, 1e6), ranks, {
  load: Float64Array.of(600, 300, 50, 50),
  current: alone([[0], [0], [1], [1]]),
});
const rates = byPath(() => 1e8);
const options = { mode: "Auto" as const, noise: 0.01, rates, limit: Number.POSITIVE_INFINITY, lifetimeSeconds: 100 };

test("a plan that pays is carried out, with its numbers", () => {
  const judged = whetherToMove(input, alone([[0], [1], [1], [1]]), options);
  assert.ok(judged.decision.act);
  assert.deepEqual(judged.decision.numbers, {
    ...{ beforePercent: 180, afterPercent: 120, boundPercent: 100, moves: 1, bytes: 1e6 },
    // A third of the layer's time for 100 s, against a tenth of the 10 ms that 1 MB takes and 2 ms for the move.
    ...{ gainSeconds: 33.33, lifetimeSeconds: 100, transferSeconds: 0.01, costSeconds: 0 },
    ...{ nodeBytes: 1e6, zoneBytes: 0, rackBytes: 0, remoteBytes: 0, storeBytes: 0 },
  });
});

test("mode Recommend says what it would do", () => {
  const judged = whetherToMove(input, alone([[0], [1], [1], [1]]), { ...options, mode: "Recommend" });
  assert.equal(judged.decision.reason, "Recommended");
  assert.match(judged.decision.message, /1 moves would give 180% -> 120%/);
});

test("a plan whose transfer costs more than it saves is not", () => {
  const judged = whetherToMove(input, alone([[0], [1], [1], [1]]), { ...options, limit: 1000, lifetimeSeconds: 10 });
  assert.equal(judged.decision.reason, "TransferNotWorth");
  assert.equal(
    judged.decision.message,
    "180% -> 120% (bound 100%) saves 3.33 s of layer time in 10 s, its 1 moves (976.56Ki within nodes) take 1000.0 s and cost 100.00 s",
  );
});

test("what a plan costs goes by the path of its bytes: the same move is worth it within a node and not between zones", () => {
  const slow = { ...options, rates: { ...rates, remote: 1000 }, lifetimeSeconds: 10 };
  const moved = alone([[0], [1], [1], [1]]);
  const apart = { ...input, ranks: input.ranks.map((rank) => ({ ...rank, node: `n${rank.rank}`, zone: `z${rank.rank}` })) };
  assert.ok(whetherToMove(input, moved, slow).decision.act);
  const { decision } = whetherToMove(apart, moved, slow);
  assert.equal(decision.reason, "TransferNotWorth");
  assert.match(decision.message, /976.56Ki between zones/);
  const racks = input.ranks.map((rank) => ({ ...rank, node: `n${rank.rank}`, rack: `r${rank.rank}` }));
  const rackwise = whetherToMove({ ...input, ranks: racks }, moved, { ...slow, rates: { ...rates, rack: 1000 } }).decision;
  assert.deepEqual([rackwise.reason, rackwise.numbers.rackBytes], ["TransferNotWorth", 1e6]);
  assert.match(rackwise.message, /976.56Ki between racks/);
  const dead = { ...apart, ranks: [{ ...apart.ranks[0]!, state: "dead" as const }, apart.ranks[1]!] };
  assert.equal(whetherToMove(dead, moved, slow).decision.numbers.storeBytes, 1e6, "a dead rank is nobody's source");
});

test("a plan that changes nothing is not", () => {
  assert.equal(whetherToMove(input, input.current ?? [], options).decision.reason, "NoBetterPlan");
});

test("while the worst layer stays as it is, moves must gain what new weights alone would not", () => {
  const split = { hosts: [[0, 1], [0], [1], [1]], weights: [[900, 100], [1000], [1000], [1000]] };
  const stuck = { hosts: [[0], [1], [1], [1]], weights: [[1000], [1000], [1000], [1000]] };
  const wide: PlanInput = {
    ...input,
    shape: modelShape(2, 4, 1e6),
    load: Float64Array.of(400, 200, 200, 200, 700, 100, 100, 100),
    current: [split, stuck],
  };
  const evener = { hosts: split.hosts, weights: [[750, 250], [1000], [1000], [1000]] };
  const idle = { hosts: [[0], [1], [1], [1, 0]], weights: [[1000], [1000], [1000], [1000, 0]] };
  const judged = whetherToMove(wide, [evener, idle], options);
  assert.deepEqual([judged.decision.reason, judged.moves], ["NoBetterPlan", 1]);
  const moving = whetherToMove(wide, [{ hosts: [[1], [0], [0], [1]], weights: stuck.weights }, stuck], { ...options, noise: 0 });
  assert.equal(moving.decision.act, false, "what new weights give as well is no gain of the moves");
});
