import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { LayerPlan } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { scheduleLayers } from "../../runtime/placement/schedule.ts";
import { modelShape, planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import { journeyViolations, planViolations, stepViolations } from "../../test/kit/planner/plan-oracle.ts";
import { type ClusterSizes, type RandomCluster, randomClusters, unlikeClusters } from "../../test/kit/planner/planner-cluster.ts";
import { peers } from "../../test/peers/index.ts";
import { atRisk, belowFloor, withFloor } from "./expert-replicas.ts";
import { checkMemory } from "./feasibility.ts";
import { layerBytes, makePlan, policies } from "./index.ts";
import { type MoveBudget, type PlacementPolicy, type PlanInput, type RankSpec, type Timing, unlimited } from "./policy.ts";
import { bytesByRank } from "./problem.ts";
import { firstPlan, repairPlan } from "./repair.ts";
import { budgetFaults, planFaults } from "./validate.ts";

interface Cluster {
  readonly layers: number;
  readonly experts: number;
  readonly sizes: number[];
  readonly loads: number[];
  readonly ranks: RankSpec[];
  readonly budget: MoveBudget;
  readonly timing: Timing | undefined;
}

const seconds = fc.double({ min: 0, max: 20, noNaN: true });

/** Small clusters of every shape: idle, one expert takes all, slow ranks, tight and rich memory. */
const cluster: fc.Arbitrary<Cluster> = fc
  .record({
    layers: fc.integer({ min: 1, max: 4 }),
    experts: fc.integer({ min: 1, max: 12 }),
    ranks: fc.integer({ min: 1, max: 6 }),
    mixed: fc.boolean(),
    idle: fc.boolean(),
    skew: fc.integer({ min: 0, max: 12 }),
    memory: fc.double({ min: 1, max: 3, noNaN: true }),
    maxMoves: fc.integer({ min: 0, max: 20 }),
    maxMovesPerRank: fc.oneof(fc.constant(Infinity), fc.integer({ min: 0, max: 4 })),
    timing: fc.option(fc.record({ denseSeconds: seconds, expertSeconds: seconds, bytesPerSecond: fc.nat(500), windows: seconds }), {
      nil: undefined,
    }),
    maxBytes: fc.oneof(fc.constant(Infinity), fc.integer({ min: 0, max: 900 })),
    seed: fc.infiniteStream(fc.integer({ min: 0, max: 1_000_000 })),
  })
  .map((c) => {
    const draw = (): number => c.seed.next().value as number;
    const cells = c.layers * c.experts;
    const sizes = Array.from({ length: cells }, () => (c.mixed ? (draw() % 5) * 50 : 100));
    const loads = Array.from({ length: cells }, (_, i) =>
      c.idle ? 0 : Math.round((draw() % 1000) * (i % c.experts === 0 ? 1 + c.skew : 1)),
    );
    const largest = Math.max(...sizes, 0);
    const need = sizes.reduce((a, b) => a + b, 0);
    const budgetBytes = Math.ceil((need / c.ranks) * c.memory) + 2 * largest;
    const ranks = Array.from({ length: c.ranks }, (_, rank) => {
      const speed = c.mixed ? [1, 0.8, 0.6][rank % 3]! : 1;
      return rankSpec(rank * 2, { speed, budgetBytes, zone: `z${rank % 2}`, node: `n${rank % 3}` });
    });
    const { maxMoves, maxMovesPerRank, maxBytes, timing } = c;
    return { layers: c.layers, experts: c.experts, sizes, loads, ranks, budget: { maxMoves, maxMovesPerRank, maxBytes }, timing };
  });

function inputOf(c: Cluster, current?: readonly LayerPlan[]): PlanInput {
  const bytes = Float64Array.from(c.sizes);
  const shape = { layers: c.layers, experts: c.experts, residentBytes: bytes, storedBytes: bytes };
  const more = { current, budget: c.budget, effort: "fast", gainPerMove: 1e-3, ...(c.timing ? { timing: c.timing } : {}) } as const;
  return planInput(shape, c.ranks, { load: Float64Array.from(c.loads), ...more });
}

const all = Object.values(policies).filter((policy) => policy !== undefined);
const runs = (policy: PlacementPolicy): number =>
  policy.cellsMax !== Number.POSITIVE_INFINITY ? 30 : policy.name === "incremental" ? 500 : 1000;

test("the floor keeps to every budget of moves and bytes", () => {
  fc.assert(
    fc.property(cluster, fc.integer({ min: 2, max: 3 }), (c, minExpertReplicas) => {
      const input = { ...inputOf(c), minExpertReplicas };
      if (!checkMemory(input.shape, input.ranks).ok) return;
      const current = firstPlan(input);
      const { layers } = withFloor({ ...input, current }, current);
      assert.deepEqual(budgetFaults({ ...input, current }, layers), []);
    }),
    { numRuns: 1000, seed: 6 },
  );
});

test("the floor adds expert replicas on other nodes as far as memory reaches, and takes none from an expert that needs it", () => {
  fc.assert(
    fc.property(cluster, fc.integer({ min: 2, max: 4 }), (c, minExpertReplicas) => {
      const input = { ...inputOf(c), minExpertReplicas, budget: unlimited };
      if (!checkMemory(input.shape, input.ranks).ok) return;
      const current = firstPlan(input);
      const { layers, missing, added } = withFloor({ ...input, current }, current);
      assert.deepEqual(planFaults({ ...input, current }, layers), []);
      assert.equal(belowFloor(input, layers), missing);
      const expertReplicas = layers.reduce((n, { hosts }) => n + hosts.flat().length, 0);
      assert.equal(expertReplicas, c.layers * c.experts + added);
      assert.ok(diffPlans(current, layers, () => 1).moves.length >= added, "some make way for others");
      const nodes = new Set(c.ranks.map((rank) => `${rank.zone}/${rank.node}`)).size;
      if (missing === 0) assert.equal(atRisk(c.ranks, layers), nodes > 1 ? 0 : c.layers * c.experts);
      const bytes = c.sizes.reduce((a, b) => a + b, 0);
      const room = c.ranks.every((rank) => rank.budgetBytes >= 2 * bytes);
      if (room) assert.equal(missing, 0);
      const again = withFloor({ ...input, current: layers }, layers);
      assert.equal(again.added, 0, "nothing is left to add");
    }),
    { numRuns: 1500, seed: 5 },
  );
});

test("where only a rank of the same node has room, an expert replica of another expert makes way", () => {
  // Ranks 0 and 1 are full but for the staging slot, rank 2 is not; expert 2 is there alone.
  const ranks = [3, 3, 4].map((budgetBytes, rank) => rankSpec(rank, { budgetBytes }));
  const current = [{ hosts: [[0, 1], [1, 0], [2]], weights: [[500, 500], [500, 500], [1000]] }];
  const input = planInput(modelShape(1, 3), ranks, { load: Float64Array.from([5, 9, 7]), minExpertReplicas: 2, effort: "fast", current });
  const { layers, added, missing } = withFloor(input, current);
  assert.deepEqual([added, missing], [1, 0]);
  assert.deepEqual(
    layers[0]?.hosts,
    [
      [1, 2],
      [1, 0],
      [2, 0],
    ],
    "the coldest expert replica goes, one only",
  );
  const tight = withFloor({ ...input, budget: { ...unlimited, maxMoves: 1 } }, current);
  assert.deepEqual([tight.layers, tight.missing], [current, 1], "one move is not enough");
});

test("expert replicas of one expert go to different nodes, from the third on to different zones", () => {
  const ranks = Array.from({ length: 8 }, (_, rank) => rankSpec(rank, { zone: `z${Math.floor(rank / 4)}`, node: `n${rank >> 1}` }));
  const first = [{ hosts: [[0], [1], [0], [1]], weights: Array(4).fill([1000]) }];
  for (const minExpertReplicas of [2, 3, 4]) {
    const [layer] = withFloor(planInput(modelShape(1, 4), ranks, { minExpertReplicas, effort: "fast" }), first).layers;
    for (const row of layer?.hosts ?? []) {
      assert.equal(new Set(row.map((rank) => rank >> 1)).size, minExpertReplicas, "nodes");
      if (minExpertReplicas > 2) assert.equal(new Set(row.map((rank) => rank >> 2)).size, 2, "zones");
    }
  }
});

test("a second expert replica goes to another rack where racks are known, and to any node where they are not", () => {
  const second = (racks: readonly (string | undefined)[]): readonly (number | undefined)[] => {
    const ranks = racks.map((rack, rank) => rankSpec(rank, { rack }));
    const current = [{ hosts: [[0], [0], [0], [0]], weights: Array(4).fill([1000]) }];
    const [layer] = withFloor(planInput(modelShape(1, 4), ranks, { minExpertReplicas: 2, effort: "fast" }), current).layers;
    return layer?.hosts.map((row) => row[1]) ?? [];
  };
  assert.deepEqual(new Set(second(["a", "a", "a", "b"])), new Set([3]));
  assert.deepEqual(new Set(second([undefined, undefined, undefined, undefined])), new Set([1, 2, 3]), "by load alone");
});

test("the floor keeps to the move budget, the hottest experts first; where an expert replica is already costs nothing", () => {
  const input = planInput(modelShape(1, 6), [rankSpec(0), rankSpec(1), rankSpec(2)], {
    ...{ load: Float64Array.from([1, 9, 2, 8, 3, 7]), budget: { ...unlimited, maxMoves: 2 }, minExpertReplicas: 2, effort: "fast" },
    current: [{ hosts: [[0], [1], [2, 0], [0], [1], [2]], weights: Array(6).fill([1000]) }],
  });
  const dropped = [{ hosts: [[0], [1], [2], [0], [1], [2]], weights: Array(6).fill([1000]) }];
  const { layers, missing } = withFloor(input, dropped);
  assert.deepEqual(
    layers[0]?.hosts.map((row) => row.length),
    [1, 2, 2, 2, 1, 1],
  );
  assert.deepEqual(layers[0]?.hosts[2], [2, 0]);
  assert.equal(missing, 3);
});

for (const policy of all) {
  test(`${policy.name}: with two expert replicas as the floor no plan takes one away, nor brings two together on a node`, async () => {
    await fc.assert(
      fc.asyncProperty(cluster, async (c) => {
        const start = { ...inputOf(c), minExpertReplicas: 2 };
        if (!checkMemory(start.shape, start.ranks).ok) return;
        const current = withFloor({ ...start, budget: unlimited }, firstPlan(start)).layers;
        const input = { ...start, current };
        const { layers } = await makePlan(policy, input);
        assert.deepEqual([...planFaults(input, layers), ...budgetFaults(input, layers)], []);
        assert.ok(belowFloor(input, layers) <= belowFloor(input, current));
      }),
      { numRuns: runs(policy), seed: 9 },
    );
  });
}

test("after any loss every expert has a live host again if memory allows, and nothing else moves", () => {
  fc.assert(
    fc.property(cluster, fc.integer({ min: 0, max: 5 }), (c, which) => {
      const start = inputOf(c);
      if (!checkMemory(start.shape, start.ranks).ok || c.ranks.length < 2) return;
      const current = firstPlan(start);
      const dead = c.ranks[which % c.ranks.length]!.rank;
      const ranks = c.ranks.map((rank) => (rank.rank === dead ? { ...rank, state: "dead" as const } : rank));
      const input = { ...inputOf(c, current), ranks };
      const repaired = repairPlan(input, current);
      assert.deepEqual(planFaults(input, repaired.layers, { unhosted: repaired.unhosted }), []);
      const { moves } = diffPlans(current, repaired.layers, () => 1);
      for (const move of moves) assert.ok(current[move.layer]?.hosts[move.expert]?.includes(dead), "only experts of the dead rank move");
      if (
        checkMemory(
          start.shape,
          ranks.filter((rank) => rank.state === "active"),
        ).ok &&
        !c.sizes.some((size) => size !== c.sizes[0])
      ) {
        assert.deepEqual(repaired.unhosted, []);
      }
      const again = repairPlan({ ...input, current: repaired.layers }, repaired.layers);
      assert.equal(again.changed, false, "a repair is not repeated");
    }),
    { numRuns: 1500, seed: 11 },
  );
});

test("the first plan puts expert e of layer l on rank (e + l) mod N", () => {
  const plan = firstPlan(planInput(modelShape(3, 8), [rankSpec(0), rankSpec(1), rankSpec(2)]));
  plan.forEach((layer, l) => {
    layer.hosts.forEach((hosts, e) => {
      assert.deepEqual(hosts, [(e + l) % 3]);
    });
  });
});

/** The step from what is hosted, as an operator carries it out. */
function assertStep(input: PlanInput, layers: readonly LayerPlan[], what: string): void {
  const { shape, current = [] } = input;
  assert.deepEqual(planViolations(input, layers), [], what);
  const { moves, layers: changed } = diffPlans(current, layers, (l, e) => shape.storedBytes[l * shape.experts + e] ?? 0);
  assert.deepEqual(stepViolations(input, layers, moves), [], what);
  const budget = new Map(input.ranks.map((rank) => [rank.rank, rank.budgetBytes]));
  const { order, stuck } = scheduleLayers(layerBytes(shape, current, layers), bytesByRank(shape, current), budget);
  assert.deepEqual(stuck, [], `${what}: layers that fit in no order`);
  const rest = changed.filter((layer) => !order.includes(layer));
  assert.deepEqual(journeyViolations(input, layers, moves, [...order, ...rest]), [], what);
}

/** Makes a plan twice, the second time from a copy of the input with its ranks in another order. */
async function planned(policy: PlacementPolicy, input: PlanInput, what: string): Promise<readonly LayerPlan[]> {
  const copy = structuredClone(input);
  const { layers } = await makePlan(policy, input);
  assert.deepEqual(input, copy, `${what}: the input is not changed`);
  const again = await makePlan(policy, { ...copy, ranks: copy.ranks.toReversed() });
  assert.deepEqual(again.layers, layers, `${what}: same input, same plan`);
  return layers;
}

/** Policies that solve programs or search far get smaller ones. */
const large: ClusterSizes = { layers: 5, experts: 20, ranks: 20 };
const sizes: Readonly<Record<string, ClusterSizes>> = {
  incremental: { layers: 3, experts: 10, ranks: 14 },
  exact: { layers: 2, experts: 5, ranks: 4 },
};

/** Plans at first, after losses and after their return. */
async function judge(policy: PlacementPolicy, clusters: fc.Arbitrary<RandomCluster>, least: number): Promise<void> {
  let judged = 0;
  const property = fc.asyncProperty(clusters, async (c) => {
    if (judged === least || !checkMemory(c.start.shape, c.start.ranks).ok) return;
    const first = (await makePlan(policy, c.start)).layers;
    assert.deepEqual(planViolations(c.start, first), [], "first plan");
    const lost = { ...c.later, current: first };
    const repaired = repairPlan(lost, first).layers;
    // One expert replica of each comes before two of some.
    assert.deepEqual(planViolations({ ...lost, minExpertReplicas: 1 }, repaired), [], "repair");
    assert.deepEqual(planViolations({ ...lost, current: repaired }, repaired), [], "repair leaves no room unused");
    assert.equal(repairPlan({ ...lost, current: repaired }, repaired).changed, false, "repair is not repeated");
    const second = await planned(policy, { ...lost, current: repaired }, "after losses");
    assertStep({ ...lost, current: repaired }, second, "after losses");
    const third = (await makePlan(policy, { ...c.after, current: second })).layers;
    assertStep({ ...c.after, current: second }, third, "after their return");
    judged++;
  });
  await fc.assert(property, { numRuns: 3 * least, seed: 20 });
  assert.equal(judged, least, "clusters with memory for all experts");
}

for (const policy of [...Object.values(policies), ...Object.values(peers)] as PlacementPolicy[]) {
  const least = Object.hasOwn(policies, policy.name) ? 1000 : 100;
  const most = sizes[policy.name] ?? large;
  test(`${policy.name}: plans of ${least} random clusters keep the contract, at first, after losses and after their return`, () =>
    judge(policy, randomClusters(most), least));
  test(`${policy.name}: so do those of ${least / 10} clusters whose layers have unlike numbers of experts`, () =>
    judge(policy, unlikeClusters(most), least / 10));
}
