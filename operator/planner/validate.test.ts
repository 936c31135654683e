// One broken plan per sentence of the planner's own checks, made from a valid one: exactly that sentence is said, and the oracle
// that judges the property tests breaks its own rule for it. So none of the two can be empty.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlan } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import { journeyViolations, planViolations, type Rule, stepViolations } from "../../test/kit/planner/plan-oracle.ts";
import { type PlanInput, type RankSpec, unlimited } from "./policy.ts";
import { assertPlan, budgetFaults, planFaults } from "./validate.ts";

type Plan = { hosts: number[][]; weights: number[][] }[];

/** Two layers of three experts of 10 resident and 5 stored bytes; ranks 0..3 on two nodes have room for five each, rank 9 is dead. */
function inputOf(more: Partial<PlanInput> = {}, experts = 3): PlanInput {
  const [residentBytes, storedBytes] = [10, 5].map((bytes) => new Float64Array(2 * experts).fill(bytes)) as [Float64Array, Float64Array];
  const ranks = [0, 1, 2, 3, 9].map((rank) =>
    rankSpec(rank, { budgetBytes: 60, node: `n${rank % 2}`, state: rank === 9 ? "dead" : "active" }),
  );
  return planInput({ layers: 2, experts, residentBytes, storedBytes }, ranks, { current: valid(), effort: "fast", ...more });
}

function valid(): Plan {
  const layer = (): Plan[number] => ({ hosts: [[0, 1], [1], [2]], weights: [[500, 500], [1000], [1000]] });
  return [layer(), layer()];
}

const alone = (hosts: number[][]): LayerPlan => ({ hosts, weights: hosts.map((row) => row.map((_, i) => (i === 0 ? 1000 : 0))) });

type Spoil = (plan: Plan) => Plan;
type Tampering = readonly [name: string, spoil: Spoil, sentences: readonly string[], rules: readonly Rule[], input?: Partial<PlanInput>];

/** The row that takes the place of one in the second layer. */
const row =
  (expert: number, hosts: number[], weights: number[]): Spoil =>
  (plan) => {
    const layer = plan[1] as Plan[number];
    layer.hosts[expert] = hosts;
    layer.weights[expert] = weights;
    return plan;
  };

const crowd = Array.from({ length: 600 }, (_, g): RankSpec => ({ ...(inputOf().ranks[0] as RankSpec), rank: g }));
const everywhere = crowd.map(({ rank }) => rank);
const first = (n: number): number[] => everywhere.slice(0, n);
const shared = (n: number): number[] => [1000, ...new Array<number>(n - 1).fill(0)];
const wide = (experts: number, hosts: number): Partial<PlanInput> => ({
  ...inputOf({}, experts),
  ranks: crowd.slice(0, hosts).map((rank) => ({ ...rank, budgetBytes: 1e6 })),
  current: undefined,
});

const tamperings: readonly Tampering[] = [
  ["a layer is missing", (plan) => plan.slice(1), ["1 layers, the model has 2"], ["every layer and expert"]],
  [
    "an expert is missing",
    ([a, b]) => [a, { hosts: b?.hosts.slice(1), weights: b?.weights.slice(1) }] as Plan,
    ["layer 1: 2 experts, the model has 3"],
    ["every layer and expert"],
  ],
  [
    "an expert has no host",
    row(1, [], []),
    ["layer 1, expert 1: no host", "layer 1, expert 1: weights do not sum to 1000"],
    ["hosted", "weights"],
  ],
  [
    "an expert has more hosts than are stored",
    row(0, first(513), shared(513)),
    ["layer 1, expert 0: 513 hosts, at most 512"],
    ["storable"],
    wide(3, 600),
  ],
  [
    "a host is no rank number",
    row(1, [1.5], [1000]),
    ["layer 1, expert 1: a rank is no natural number", "layer 1, expert 1: rank 1.5 is not active"],
    ["real ranks", "active ranks"],
  ],
  [
    "a host is below zero",
    row(1, [-1], [1000]),
    ["layer 1, expert 1: a rank is no natural number", "layer 1, expert 1: rank -1 is not active"],
    ["real ranks", "active ranks"],
  ],
  ["a rank is named twice", row(1, [1, 1], [500, 500]), ["layer 1, expert 1: a rank twice"], ["distinct ranks"]],
  ["a weight is missing", row(0, [0, 1], [1000]), ["layer 1, expert 0: 2 hosts, 1 weights"], ["weights"]],
  ["a weight is a fraction", row(0, [0, 1], [500.5, 499.5]), ["layer 1, expert 0: a weight is no natural number"], ["weights"]],
  ["a weight is below zero", row(0, [0, 1], [1001, -1]), ["layer 1, expert 0: a weight is no natural number"], ["weights"]],
  ["weights sum to less", row(0, [0, 1], [500, 499]), ["layer 1, expert 0: weights do not sum to 1000"], ["weights"]],
  ["a host is dead", row(1, [9], [1000]), ["layer 1, expert 1: rank 9 is not active"], ["active ranks"]],
  ["a host is not there", row(0, [0, 7], [500, 500]), ["layer 1, expert 0: rank 7 is not active"], ["active ranks"]],
  [
    "hosts are more text than is stored",
    () => [0, 1].map((l) => alone(Array.from({ length: 256 }, () => (l === 0 ? [0] : first(144))))) as Plan,
    [
      `layer 1: ${256 * (first(144).join(".").length + 1) - 1} characters of hosts, at most 65536 are stored`,
      `layer 1: ${256 * (shared(144).join(".").length + 1) - 1} characters of weights, at most 65536 are stored`,
    ],
    ["storable"],
    wide(256, 144),
  ],
  [
    "a rank hosts more of a layer than it has slots",
    row(2, [1], [1000]),
    ["layer 1: rank 1 hosts 3 experts, at most 2"],
    ["slots"],
    { slotsPerRank: 2 },
  ],
  [
    "an expert loses an expert replica that it needs",
    row(0, [0], [1000]),
    ["layer 1, expert 0: 1 expert replicas where it had 2, minExpertReplicas is 2"],
    ["floor"],
    { minExpertReplicas: 2 },
  ],
  [
    "an expert's expert replicas come together on a node",
    row(0, [0, 2], [500, 500]),
    ["layer 1, expert 0: 2 expert replicas where it had 2, minExpertReplicas is 2"],
    ["floor"],
    { minExpertReplicas: 2 },
  ],
  [
    "a rank holds more than its memory",
    (plan) => row(1, [3], [1000])(row(2, [3], [1000])(plan)),
    ["rank 3: 20 resident bytes and a staging slot of 10 exceed its budget of 29"],
    ["bytes"],
    { ranks: inputOf().ranks.map((rank) => (rank.rank === 3 ? { ...rank, budgetBytes: 29 } : rank)) },
  ],
];

for (const [name, spoil, sentences, rules, more] of tamperings) {
  test(`a plan in which ${name} is refused in these words: ${sentences.join("; ")}`, () => {
    const input = inputOf(more);
    if (input.current) {
      assert.deepEqual(planFaults(input, valid()), []);
      assert.deepEqual(planViolations(input, valid()), []);
    }
    const spoiled = spoil(valid());
    assert.deepEqual(planFaults(input, spoiled), sentences);
    assert.deepEqual([...new Set(planViolations(input, spoiled).map(({ rule }) => rule))].toSorted(), rules.toSorted());
    assert.throws(() => assertPlan(input, spoiled), { code: "InvalidPlan", message: /^the policy made an invalid plan \(\d+ faults\): / });
  });
}

test("a rank that held too much before may keep it, and not get more", () => {
  const ranks = inputOf().ranks.map((rank) => (rank.rank === 1 ? { ...rank, budgetBytes: 25 } : rank));
  const input = inputOf({ ranks });
  assert.deepEqual([...planFaults(input, valid()), ...planViolations(input, valid())], []);
  const more = row(2, [1], [1000])(valid());
  assert.deepEqual(planFaults(input, more), ["rank 1: 50 resident bytes and a staging slot of 10 exceed its budget of 25"]);
  assert.deepEqual(
    planViolations(input, more).map(({ rule }) => rule),
    ["bytes"],
  );
});

test("an expert that memory does not hold may keep its lost primary, and nothing else", () => {
  const lost = row(1, [9], [1000])(valid());
  const input = inputOf({ current: lost });
  assert.deepEqual(planFaults(input, lost, { unhosted: [{ layer: 1, expert: 1 }] }), []);
  assert.deepEqual(planFaults(input, lost), ["layer 1, expert 1: rank 9 is not active"]);
  const rules = (within: PlanInput, layers: readonly LayerPlan[]): Rule[] => planViolations(within, layers).map(({ rule }) => rule);
  assert.deepEqual(rules(input, lost), ["hosted"], "there is room for it");
  const full = { ...input, ranks: input.ranks.map((rank) => ({ ...rank, budgetBytes: 39, speed: rank.rank < 3 ? 1 : 0 })) };
  assert.deepEqual(rules(full, lost), []);
  assert.deepEqual(rules(full, row(1, [8], [1000])(valid())), ["active ranks"], "a primary that it never had");
  assert.deepEqual(rules({ ...full, current: valid() }, lost), ["active ranks"], "it had another");
});

test("an expert that found a host after all counts there", () => {
  const input = { ...inputOf(), slotsPerRank: 2 };
  const spoiled = row(2, [1], [1000])(valid());
  assert.deepEqual(planFaults(input, spoiled, { unhosted: [{ layer: 1, expert: 2 }] }), ["layer 1: rank 1 hosts 3 experts, at most 2"]);
});

const movesOf = (layers: readonly LayerPlan[], from = inputOf().current) => diffPlans(from, layers, () => 5).moves;
/** Two experts go to rank 3: two moves of five bytes. */
const moved = (): Plan => row(1, [3], [1000])(row(2, [3], [1000])(valid()));

for (const { budget, sentence, rule } of [
  { budget: { maxMoves: 1 }, sentence: "2 moves, the budget is 1", rule: "budget of moves" },
  { budget: { maxMovesPerRank: 1 }, sentence: "2 moves to rank 3, the budget is 1 per rank", rule: "budget of moves to a rank" },
  { budget: { maxBytes: 9 }, sentence: "10 bytes to move, the budget is 9", rule: "budget of bytes" },
] as const) {
  test(`a step beyond the budget is refused in these words: ${sentence}`, () => {
    const input = inputOf({ budget: { ...unlimited, ...budget } });
    assert.deepEqual(budgetFaults(input, moved()), [sentence]);
    assert.deepEqual(
      stepViolations(input, moved(), movesOf(moved())).map((found) => found.rule),
      [rule],
    );
    const enough = inputOf({ budget: { maxMoves: 2, maxMovesPerRank: 2, maxBytes: 10 } });
    assert.deepEqual(budgetFaults(enough, moved()), []);
    assert.deepEqual(stepViolations(enough, moved(), movesOf(moved())), []);
  });
}

test("the oracle sees moves that are missing, are too many, or read where nothing is hosted", () => {
  const input = inputOf();
  const moves = movesOf(moved());
  const rules = (claimed: typeof moves): Rule[] => stepViolations(input, moved(), claimed).map(({ rule }) => rule);
  assert.deepEqual(rules(moves), []);
  assert.deepEqual(rules(moves.slice(1)), ["moves are the difference"]);
  assert.deepEqual(rules([...moves, ...moves]), ["moves are the difference"]);
  assert.deepEqual(rules(moves.map((move) => ({ ...move, sources: [3] }))), ["sources host", "sources host"]);
  assert.deepEqual(rules(moves.map((move) => ({ ...move, sources: [] }))), ["sources host", "sources host"]);
});

test("the oracle sees a layer too early, too late or never: memory on the way, a source that is gone, another placement", () => {
  // Rank 3 has room for one expert and a staging slot, and swaps one layer's expert for another's.
  const ranks = inputOf().ranks.map((rank) => (rank.rank === 3 ? { ...rank, budgetBytes: 19 } : rank));
  const before = valid();
  (before[0] as Plan[number]).hosts[2] = [3];
  const after = row(2, [3], [1000])(valid());
  const input = inputOf({ ranks, current: before });
  const moves = movesOf(after, before);
  const rules = (order: readonly number[], claimed = moves): Rule[] =>
    journeyViolations(input, after, claimed, order).map(({ rule }) => rule);
  assert.deepEqual(rules([0, 1]), []);
  assert.deepEqual(rules([1, 0]), ["memory on the way"]);
  assert.deepEqual(rules([0]), ["moves are the difference"]);
  assert.deepEqual(
    rules(
      [0, 1],
      moves.map((move) => ({ ...move, sources: [1] })),
    ),
    ["sources host", "sources host"],
  );
});
