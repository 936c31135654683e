import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import { decodeLayer, encodeLayer, type LayerPlan } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { scheduleLayers } from "../../runtime/placement/schedule.ts";
import { atRisk, belowFloor, withFloor } from "./copies.ts";
import { checkMemory } from "./feasibility.ts";
import { layerBytes, makePlan, policies } from "./index.ts";
import { type PlacementPolicy, type PlanInput, type RankSpec, unlimited } from "./policy.ts";
import { bytesByRank } from "./problem.ts";
import { firstPlan, repairPlan } from "./repair.ts";
import { budgetFaults, planFaults } from "./validate.ts";

interface Cluster {
  readonly layers: number;
  readonly experts: number;
  readonly sizes: number[];
  readonly loads: number[];
  readonly ranks: RankSpec[];
  readonly lost: RankSpec[];
  readonly maxMoves: number;
  readonly maxBytes: number;
}

/** Small clusters of every shape: idle, one expert takes all, slow ranks, tight and rich memory. `lost`: what becomes of ranks later. */
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
    maxBytes: fc.constantFrom(Number.POSITIVE_INFINITY, 100, 250, 900),
    states: fc.array(fc.constantFrom("active" as const, "active" as const, "draining" as const, "dead" as const), {
      minLength: 6,
      maxLength: 6,
    }),
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
    const ranks = Array.from(
      { length: c.ranks },
      (_, rank): RankSpec => ({
        rank: rank * 2,
        speed: c.mixed ? [1, 0.8, 0.6][rank % 3]! : 1,
        budgetBytes,
        zone: `z${rank % 2}`,
        node: `n${rank % 3}`,
        state: "active",
      }),
    );
    const lost = ranks.map((rank, g) => (g === 0 ? rank : { ...rank, state: c.states[g] as RankSpec["state"] }));
    return { layers: c.layers, experts: c.experts, sizes, loads, ranks, lost, maxMoves: c.maxMoves, maxBytes: c.maxBytes };
  });

function inputOf(c: Cluster, current?: readonly LayerPlan[]): PlanInput {
  const bytes = Float64Array.from(c.sizes);
  return {
    shape: { layers: c.layers, experts: c.experts, residentBytes: bytes, storedBytes: bytes },
    ranks: c.ranks,
    load: Float64Array.from(c.loads),
    current,
    budget: { maxMoves: c.maxMoves, maxBytes: c.maxBytes },
    minCopies: 1,
    split: "weighted",
    effort: "fast",
    gainPerMove: 1e-3,
  };
}

const all = Object.values(policies).filter((policy) => policy !== undefined);
const runs = (policy: PlacementPolicy): number =>
  policy.cellsMax !== Number.POSITIVE_INFINITY ? 30 : policy.name === "incremental" ? 500 : 1000;

for (const policy of all) {
  test(`${policy.name}: every plan of a random cluster keeps the invariants and is the same again`, async () => {
    await fc.assert(
      fc.asyncProperty(cluster, async (c) => {
        const start = inputOf(c);
        if (!checkMemory(start.shape, start.ranks).ok) return;
        const current = firstPlan(start);
        assert.deepEqual(planFaults(start, current), []);
        const input = inputOf(c, current);
        const { layers } = await makePlan(policy, input);
        assert.deepEqual(planFaults(input, layers), []);
        assert.deepEqual(budgetFaults(input, layers), []);
        const again = await makePlan(policy, input);
        assert.deepEqual(again.layers, layers, "deterministic");
        const { moves } = diffPlans(current, layers, () => 1);
        for (const move of moves) {
          assert.ok(
            move.sources.length > 0 && move.sources.every((rank) => current[move.layer]?.hosts[move.expert]?.includes(rank)),
            "a source hosts it",
          );
        }
        const budget = new Map(c.ranks.map((rank) => [rank.rank, rank.budgetBytes]));
        const { stuck } = scheduleLayers(layerBytes(input.shape, current, layers), bytesByRank(input.shape, current), budget);
        assert.deepEqual(stuck, [], "the plan can be carried out within memory");
      }),
      { numRuns: runs(policy), seed: 7 },
    );
  });
}

for (const policy of all) {
  test(`${policy.name}: after ranks died or drain, with memory for all experts or not, plans name only ranks that are there`, async () => {
    await fc.assert(
      fc.asyncProperty(cluster, async (c) => {
        const start = inputOf(c);
        if (!checkMemory(start.shape, start.ranks).ok) return;
        const transitions = policy.usesTransitions ? new Float64Array(c.layers * c.experts ** 2).fill(1) : undefined;
        const { gainPerMove, ...any } = inputOf(c, firstPlan(start));
        // Without a least gain, plans take what gains nothing too.
        const least = gainPerMove !== undefined && c.maxMoves % 2 === 0 ? { gainPerMove } : {};
        const input = { ...any, ...least, ranks: c.lost, ...(transitions ? { transitions } : {}) };
        const { layers: current, unhosted } = repairPlan(input, input.current ?? []);
        const whole = { ...input, current };
        const { layers } = await makePlan(policy, whole);
        assert.deepEqual([...planFaults(whole, layers, { unhosted }), ...budgetFaults(whole, layers)], []);
        for (const { hosts, shares } of layers.map(encodeLayer)) decodeLayer(hosts, shares, "plan");
        const active = new Set(c.lost.filter((rank) => rank.state === "active").map((rank) => rank.rank));
        layers.forEach((layer, l) => {
          layer.hosts.forEach((row, e) => {
            const kept = unhosted.some((lost) => lost.layer === l && lost.expert === e) ? current[l]?.hosts[e] : undefined;
            assert.ok(row.every((rank) => active.has(rank)) || row.join() === kept?.join(), `layer ${l}, expert ${e}: ${row}`);
          });
        });
      }),
      { numRuns: Math.min(300, runs(policy)), seed: 8 },
    );
  });
}

test("the floor adds copies on other nodes as far as memory reaches, and takes none from an expert that needs it", () => {
  fc.assert(
    fc.property(cluster, fc.integer({ min: 2, max: 4 }), (c, minCopies) => {
      const input = { ...inputOf(c), minCopies, budget: unlimited };
      if (!checkMemory(input.shape, input.ranks).ok) return;
      const current = firstPlan(input);
      const { layers, missing, added } = withFloor({ ...input, current }, current);
      assert.deepEqual(planFaults({ ...input, current }, layers), []);
      assert.equal(belowFloor(input, layers), missing);
      assert.equal(diffPlans(current, layers, () => 1).moves.length, added);
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

test("copies of one expert go to different nodes, from the third on to different zones", () => {
  const bytes = new Float64Array(4).fill(1);
  const shape = { layers: 1, experts: 4, residentBytes: bytes, storedBytes: bytes };
  const ranks = Array.from(
    { length: 8 },
    (_, rank): RankSpec => ({ rank, speed: 1, budgetBytes: 20, zone: `z${Math.floor(rank / 4)}`, node: `n${rank >> 1}`, state: "active" }),
  );
  const input = {
    shape,
    ranks,
    load: new Float64Array(4).fill(1),
    current: undefined,
    budget: unlimited,
    split: "weighted",
    effort: "fast",
  };
  const first = [{ hosts: [[0], [1], [0], [1]], shares: Array(4).fill([1000]) }];
  for (const minCopies of [2, 3, 4]) {
    const [layer] = withFloor({ ...input, minCopies } as PlanInput, first).layers;
    for (const row of layer?.hosts ?? []) {
      assert.equal(new Set(row.map((rank) => rank >> 1)).size, minCopies, "nodes");
      if (minCopies > 2) assert.equal(new Set(row.map((rank) => rank >> 2)).size, 2, "zones");
    }
  }
});

test("the floor keeps to the move budget, the hottest experts first; where a copy is already costs nothing", () => {
  const bytes = new Float64Array(6).fill(1);
  const shape = { layers: 1, experts: 6, residentBytes: bytes, storedBytes: bytes };
  const ranks = [0, 1, 2].map((rank): RankSpec => ({ rank, speed: 1, budgetBytes: 20, zone: "", node: `n${rank}`, state: "active" }));
  const input: PlanInput = {
    ...{ shape, ranks, load: Float64Array.from([1, 9, 2, 8, 3, 7]), budget: { ...unlimited, maxMoves: 2 }, minCopies: 2 },
    ...{ split: "weighted", effort: "fast", current: [{ hosts: [[0], [1], [2, 0], [0], [1], [2]], shares: Array(6).fill([1000]) }] },
  };
  const dropped = [{ hosts: [[0], [1], [2], [0], [1], [2]], shares: Array(6).fill([1000]) }];
  const { layers, missing } = withFloor(input, dropped);
  assert.deepEqual(
    layers[0]?.hosts.map((row) => row.length),
    [1, 2, 2, 2, 1, 1],
  );
  assert.deepEqual(layers[0]?.hosts[2], [2, 0]);
  assert.equal(missing, 3);
});

for (const policy of all) {
  test(`${policy.name}: with two copies as the floor no plan takes one away, nor brings two together on a node`, async () => {
    await fc.assert(
      fc.asyncProperty(cluster, async (c) => {
        const start = { ...inputOf(c), minCopies: 2 };
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

test("budgets too small are refused with the field and a remedy that works", () => {
  const bytes = new Float64Array(24).fill(100);
  const shape = { layers: 3, experts: 8, residentBytes: bytes, storedBytes: bytes };
  const rank = (n: number, budgetBytes: number): RankSpec => ({ rank: n, speed: 1, budgetBytes, zone: "", node: "", state: "active" });
  const refused = checkMemory(shape, [rank(0, 1000), rank(1, 1000)]);
  assert.ok(!refused.ok);
  assert.match(refused.message, /experts need .* 2 ranks x 1000 = .*raise memoryPerRank to .* or replicas to 3/);
  assert.ok(checkMemory(shape, [rank(0, 1300), rank(1, 1300)]).ok);
  assert.ok(checkMemory(shape, [rank(0, 1000), rank(1, 1000), rank(2, 1000)]).ok);
  const input: PlanInput = {
    shape,
    ranks: [rank(0, 1000), rank(1, 1000)],
    load: new Float64Array(24),
    current: undefined,
    budget: unlimited,
    minCopies: 1,
    split: "weighted",
    effort: "fast",
  };
  assert.throws(
    () => firstPlan(input),
    (error) => error instanceof AppError && error.code === "InsufficientExpertMemory",
  );
});

test("the first plan puts expert e of layer l on rank (e + l) mod N", () => {
  const bytes = new Float64Array(24).fill(1);
  const shape = { layers: 3, experts: 8, residentBytes: bytes, storedBytes: bytes };
  const ranks = [0, 1, 2].map((rank): RankSpec => ({ rank, speed: 1, budgetBytes: 20, zone: "", node: "", state: "active" }));
  const plan = firstPlan({
    shape,
    ranks,
    load: new Float64Array(24),
    current: undefined,
    budget: unlimited,
    minCopies: 1,
    split: "weighted",
    effort: "fast",
  });
  plan.forEach((layer, l) => {
    layer.hosts.forEach((hosts, e) => {
      assert.deepEqual(hosts, [(e + l) % 3]);
    });
  });
});
