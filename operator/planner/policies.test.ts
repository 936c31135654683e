import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { LayerPlan } from "../../crds/plan.ts";
import { countMoves, diffPlans } from "../../runtime/placement/diff.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { splitLayer } from "../../runtime/placement/split.ts";
import { approached } from "../../test/bench/planner-fresh.ts";
import { stationaryTrace } from "../../test/bench/planner-kit.ts";
import { modelShape, planInput } from "../../test/kit/planner/plan-input.ts";
import { randomClusters } from "../../test/kit/planner/planner-cluster.ts";
import { eplbHierarchical } from "../../test/peers/eplb-hierarchical.ts";
import { peers } from "../../test/peers/index.ts";
import { makePlan, pathCost, policies } from "./index.ts";
import { rankSpecs, simulate, summarise } from "./offline/simulate.ts";
import { windowOf } from "./offline/traces.ts";
import { generateTrace, presets } from "./offline/traces-generate.ts";
import { eplbGlobal } from "./policies/eplb.ts";
import { planFresh } from "./policies/incremental.ts";
import { type PlanInput, type RankSpec, unlimited } from "./policy.ts";
import { seeded } from "./random.ts";
import { firstPlan } from "./repair.ts";
import { budgetFaults, planFaults } from "./validate.ts";

const known = { ...policies, ...peers };

const now = (): number => 0;
const small = generateTrace("small", { ...presets.qwen3_48x128, layers: 6, windows: 7 }, 4);
const mixtral = generateTrace("mixtral", { ...presets.mixtral_32x8, layers: 8, windows: 3 }, 4);

function inputOf(trace: typeof small, ranks: number, slots: number, more: Partial<PlanInput> = {}): PlanInput {
  const load = Float64Array.from(windowOf(trace, 0));
  return planInput(modelShape(trace.layers, trace.experts), rankSpecs({ ranks, slots }), { load, slotsPerRank: slots, ...more });
}

function worst(layers: readonly LayerPlan[], trace: typeof small, ranks: number): number[] {
  const speed = new Float64Array(ranks).fill(1);
  return layers.map((layer, l) =>
    imbalance(
      splitLayer({ demand: windowOf(trace, 0).subarray(l * trace.experts, (l + 1) * trace.experts), hosts: layer.hosts, speed }).load,
      speed,
    ),
  );
}

test("EPLB places its published two-layer example as published, GPU by GPU", () => {
  const loads = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
  ];
  const want = [
    ["5,6", "5,7", "4,8", "3,4", "9,10", "2,10", "0,1", "1,11"],
    ["7,10", "6,8", "6,11", "8,9", "2,4", "1,5", "0,5", "1,3"],
  ];
  loads.forEach((load, layer) => {
    const placed = eplbHierarchical(load, { groups: 4, nodes: 2, ranks: 8, perRank: 2 });
    assert.deepEqual(
      placed.map((slots) => slots.toSorted((a, b) => a - b).join()),
      want[layer],
    );
  });
});

test("EPLB refuses groups that do not divide", () => {
  assert.throws(() => eplbHierarchical([1, 2, 3, 4], { groups: 3, nodes: 2, ranks: 4, perRank: 1 }), { code: "InvalidTopology" });
});

test("EPLB gives the next replica to the expert with most load per replica", () => {
  assert.deepEqual(eplbGlobal([9, 4, 2, 1], 4, 2).count, [4, 2, 1, 1]);
});

test("the incremental plan of a small model is within 0.5% of the exact optimum", async () => {
  for (const [ranks, slots] of [
    [8, 2],
    [4, 3],
  ] as const) {
    const input = inputOf(mixtral, ranks, slots);
    const ours = worst(planFresh(input).layers, mixtral, ranks);
    const best = worst((await peers.exact.plan(input)).layers, mixtral, ranks);
    for (const [l, ratio] of ours.entries()) assert.ok(ratio <= best[l]! * 1.005, `layer ${l}: ${ratio} against ${best[l]}`);
  }
});

test("so it is where bytes are the limit and every byte is taken, and a replan spends its search on what fits", async () => {
  for (let l = 0; l < mixtral.layers; l++) {
    const cells = mixtral.layers * mixtral.experts;
    const layer = (window: number) =>
      mixtral.counts.slice(window * cells + l * mixtral.experts, window * cells + (l + 1) * mixtral.experts);
    const one = { ...mixtral, layers: 1, windows: 1, counts: layer(0) };
    const slots = inputOf(one, 8, 2);
    const { slotsPerRank: _, ...bytes } = { ...slots, ranks: rankSpecs({ ranks: 8, slotsTotal: 2 }) };
    const best = Math.max(...worst((await peers.exact.plan(slots)).layers, one, 8));
    const fresh = planFresh(bytes).layers;
    assert.ok(worst(fresh, one, 8)[0]! <= 1.005 * best, `layer ${l}: ${worst(fresh, one, 8)} against ${best}`);
    // The plan starts from primaries alone, which a plan of everything must search its way out of.
    const { layers } = await makePlan(policies.incremental, { ...bytes, current: firstPlan(bytes) });
    assert.ok(worst(layers, one, 8)[0]! <= 1.05 * best, `layer ${l}, replanned: ${worst(layers, one, 8)} against ${best}`);
  }
});

test("incremental is as even as EPLB at every step with a tenth of its expert replicas or fewer", async () => {
  const run = async (name: "incremental" | "eplb") =>
    summarise(await simulate({ trace: small, policy: known[name], ranks: 16, slots: 9, now }));
  const [ours, eplb] = [await run("incremental"), await run("eplb")];
  assert.ok(ours.balance.optimal >= eplb.balance.optimal - 0.003, `${ours.balance.optimal} against ${eplb.balance.optimal}`);
  assert.ok(ours.expertReplicas * 10 <= eplb.expertReplicas, `${ours.expertReplicas} against ${eplb.expertReplicas}`);
});

test("with an equal split incremental keeps within two points of EPLB with a fifth of its expert replicas or fewer", async () => {
  const run = async (name: "incremental" | "eplb") =>
    summarise(await simulate({ trace: small, policy: known[name], ranks: 16, slots: 9, split: "equal", now }));
  const [ours, eplb] = [await run("incremental"), await run("eplb")];
  assert.ok(ours.balance.equal >= eplb.balance.equal - 0.02, `${ours.balance.equal} against ${eplb.balance.equal}`);
  assert.ok(ours.expertReplicas * 5 <= eplb.expertReplicas, `${ours.expertReplicas} against ${eplb.expertReplicas}`);
});

test("a budget of expert replicas holds at every step", async () => {
  const results = await simulate({ trace: small, policy: policies.incremental, ranks: 16, slots: 9, budgetExpertReplicas: 5, now });
  assert.deepEqual(
    results.filter((result) => result.expertReplicas > 5),
    [],
  );
  assert.ok(results.some((result) => result.expertReplicas > 0));
});

for (const name of ["incremental", "hecate", "eplb", "fastermoe", "smartmoe"] as const) {
  test(`${name}: no rank takes more expert replicas than a plan may bring to one, and other ranks still take theirs`, async () => {
    // All that is hot is on rank 0, which holds most; the last rank is empty.
    const ranks = rankSpecs({ ranks: 8 }).map((rank) => ({ ...rank, budgetBytes: small.layers * 40 + 1 }));
    const hosts = Array.from({ length: small.experts }, (_, e) => [e % 7]);
    const current = Array.from({ length: small.layers }, () => ({ hosts, weights: hosts.map(() => [1000]) }));
    const { slotsPerRank: _, ...input } = inputOf(small, 8, 40, { ranks, current, budget: { ...unlimited, maxMoves: 60 } });
    const arrivals = async (budget: PlanInput["budget"]) => {
      const { layers } = await makePlan(known[name], { ...input, budget });
      const byRank = Map.groupBy(diffPlans(current, layers, () => 1).moves, (move) => move.rank);
      return [...byRank.values()].map((moves) => moves.length).sort((a, b) => b - a);
    };
    const free = await arrivals(input.budget);
    const capped = await arrivals({ ...input.budget, maxMovesPerRank: 3 });
    assert.ok(free[0]! > 3, `without a cap: ${free}`);
    assert.ok(capped[0]! <= 3 && capped.length >= 2, `with it: ${capped}`);
  });
}

test("a plan that brings one rank too much is a fault of the budget", () => {
  const current = [{ hosts: [[0], [0], [1]], weights: [[1000], [1000], [1000]] }];
  const trace = { name: "n", windows: 1, layers: 1, experts: 3, counts: new Uint32Array(3).fill(9) };
  const input = inputOf(trace, 2, 3, { current, budget: { ...unlimited, maxMovesPerRank: 1 } });
  const both = [{ hosts: [[1], [1], [1]], weights: [[1000], [1000], [1000]] }];
  assert.deepEqual(budgetFaults(input, both), ["2 moves to rank 1, the budget is 1 per rank"]);
  assert.deepEqual(budgetFaults({ ...input, budget: { ...unlimited, maxMovesPerRank: 2 } }, both), []);
});

for (const name of ["eplb", "hecate", "smartmoe"] as const) {
  test(`${name}: a target beyond the budget is approached by plans within it, and even a full memory lets it go on`, async () => {
    const spare = name === "smartmoe" ? 0 : 24;
    const cells = small.layers * small.experts;
    const ranks = rankSpecs({ ranks: 16 }).map((rank) => ({ ...rank, budgetBytes: cells / 16 + spare + 1 }));
    const budget = { ...unlimited, maxMoves: 12 };
    const { slotsPerRank: _, ...input } = inputOf(small, 16, 8, { ranks, budget, gainPerMove: 1e-3 });
    const first = firstPlan({ ...input, current: undefined });
    const means: number[] = [];
    let current: readonly LayerPlan[] = first;
    for (let n = 0; n < 12; n++) {
      const { layers } = await makePlan(known[name], { ...input, current });
      assert.ok(countMoves(current, layers) <= 12, `${countMoves(current, layers)} moves`);
      current = layers;
      means.push(worst(layers, small, 16).reduce((a, b) => a + b, 0) / small.layers);
    }
    const before = worst(first, small, 16).reduce((a, b) => a + b, 0) / small.layers;
    assert.ok(
      means.every((mean, n) => mean <= (means[n - 1] ?? before) + 1e-9),
      `${before}: ${means}`,
    );
    assert.ok(1 - (means.at(-1)! - 1) / (before - 1) > 0.5, `${before} -> ${means.at(-1)}`);
  });
}

test("without a budget EPLB is the published algorithm, whatever is hosted", async () => {
  const first = await policies.eplb.plan(inputOf(small, 16, 9));
  const moved = await policies.eplb.plan(inputOf(small, 16, 9, { current: (await peers.uniform.plan(inputOf(small, 16, 9))).layers }));
  assert.deepEqual(moved.layers, first.layers);
});

test("of a restless load with weights that follow it, a hedged plan is more even on the next window for fewer expert replicas", async () => {
  for (const seed of [1, 3, 4]) {
    const trace = generateTrace("burst", { ...presets.dsv3_burst, layers: 16, windows: 13 }, seed);
    const run = async (fixedWeights: boolean) =>
      summarise(await simulate({ trace, policy: policies.incremental, ranks: 32, slots: 9, fixedWeights, now }));
    const [hedged, plain] = [await run(false), await run(true)];
    assert.ok(hedged.balance.optimal > plain.balance.optimal, `seed ${seed}: ${hedged.balance.optimal} against ${plain.balance.optimal}`);
    assert.ok(hedged.expertReplicas < plain.expertReplicas, `seed ${seed}: ${hedged.expertReplicas} against ${plain.expertReplicas}`);
  }
});

test("a second replica goes to another node, although an expert replica within the node is cheaper", async () => {
  const trace = { name: "n", windows: 1, layers: 1, experts: 40, counts: new Uint32Array(40).fill(100) };
  trace.counts[0] = 900;
  const ranks = rankSpecs({ ranks: 4 }).map((rank, g) => ({ ...rank, node: g < 2 ? "a" : "b" }));
  const hosts = Array.from({ length: 40 }, (_, e) => [e % 4]);
  const current = [{ hosts, weights: hosts.map(() => [1000]) }];
  const { slotsPerRank: _, ...input } = inputOf(trace, 4, 11, { ranks, current, budget: { ...unlimited, maxMoves: 1 } });
  const [layer] = (await makePlan(policies.incremental, input)).layers;
  const moved = layer!.hosts[0]!.filter((rank) => rank !== 0);
  assert.equal(moved.length, 1);
  assert.ok(moved[0]! >= 2, `rank ${moved[0]}`);
});

test("ranks of different speed get what they can compute", () => {
  const input = inputOf(small, 16, 9, { ranks: rankSpecs({ ranks: 16, slots: 9, speeds: [1, 0.8, 0.6, 0.6] }) });
  const { layers } = planFresh(input);
  const speed = Float64Array.from(input.ranks, (rank) => rank.speed);
  layers.forEach((layer, l) => {
    const demand = windowOf(small, 0).subarray(l * 128, (l + 1) * 128);
    const ratio = imbalance(splitLayer({ demand, hosts: layer.hosts, speed }).load, speed);
    assert.ok(ratio <= 1.05, `layer ${l}: ${ratio}`);
  });
});

test("sampling noise moves nothing", async () => {
  const trace = stationaryTrace({ layers: 6, experts: 128, load: windowOf(small, 0) }, 12, 200_000, 3);
  const results = await simulate({ trace, policy: policies.incremental, ranks: 16, slots: 9, gainPerMove: 1e-3, noise: "all", now });
  assert.equal(
    results.slice(4).reduce((sum, result) => sum + result.expertReplicas, 0),
    0,
  );
});

test("FasterMoE shadows on all ranks or on none", async () => {
  const { layers } = await peers.fastermoe.plan(inputOf(mixtral, 4, 5));
  const expertReplicas = layers.flatMap((layer) => layer.hosts.map((row) => row.length));
  assert.deepEqual([...new Set(expertReplicas)].sort(), [1, 4]);
});

test("SmartMoE keeps equal seats and never makes the worst rank heavier", async () => {
  const first = peers.uniform.plan(inputOf(mixtral, 4, 2)) as { layers: readonly LayerPlan[] };
  const { layers } = await peers.smartmoe.plan(inputOf(mixtral, 4, 2, { current: first.layers }));
  const [before, after] = [worst(first.layers, mixtral, 4), worst(layers, mixtral, 4)];
  layers.forEach((layer, l) => {
    assert.deepEqual(
      [0, 1, 2, 3].map((g) => layer.hosts.filter((row) => row[0] === g).length),
      [2, 2, 2, 2],
    );
    assert.ok(after[l]! <= before[l]! + 1e-9);
  });
});

test("plans of thousands of clusters with slot caps: valid, deterministic, every move readable from a present host", async () => {
  const shape = fc.record({
    layers: fc.integer({ min: 1, max: 3 }),
    experts: fc.integer({ min: 1, max: 20 }),
    ranks: fc.integer({ min: 1, max: 24 }),
    spare: fc.integer({ min: 0, max: 3 }),
    split: fc.constantFrom("weighted" as const, "equal" as const),
    effort: fc.constantFrom("fast" as const, "quality" as const),
    kind: fc.constantFrom("even", "idle", "one expert", "skewed"),
    seed: fc.integer({ min: 0, max: 1_000_000 }),
  });
  await fc.assert(
    fc.asyncProperty(shape, async (c) => {
      const random = seeded(c.seed);
      const cells = c.layers * c.experts;
      const draw = (i: number): number =>
        c.kind === "idle"
          ? 0
          : c.kind === "even"
            ? 100
            : c.kind === "one expert"
              ? i % c.experts === 0
                ? 1000
                : 0
              : Math.floor(1000 * random.next() ** 4);
      const slots = Math.ceil(c.experts / c.ranks) + c.spare;
      const trace = {
        name: "p",
        windows: 1,
        layers: c.layers,
        experts: c.experts,
        counts: Uint32Array.from({ length: cells }, (_, i) => draw(i)),
      };
      const first = inputOf(trace, c.ranks, slots, { split: c.split, effort: "fast" });
      const one = await makePlan(policies.incremental, first);
      const second = { ...first, effort: c.effort, current: one.layers, load: Float64Array.from({ length: cells }, (_, i) => draw(i)) };
      const two = await makePlan(policies.incremental, second);
      assert.deepEqual(planFaults(second, two.layers), []);
      assert.deepEqual((await makePlan(policies.incremental, second)).layers, two.layers);
      const { moves } = diffPlans(one.layers, two.layers, () => 1);
      for (const move of moves) {
        assert.ok(move.sources.length > 0);
        for (const source of move.sources) assert.ok(one.layers[move.layer]!.hosts[move.expert]!.includes(source));
      }
      assert.equal(moves.length, countMoves(one.layers, two.layers));
    }),
    { numRuns: 1500 },
  );
});

const rank = (n: number, node: string, zone: string): RankSpec => ({ rank: n, speed: 1, budgetBytes: 1, zone, node, state: "active" });

test("an expert replica from the same node is cheaper than from the zone, from another zone dearer; the nearest source counts", () => {
  const cost = pathCost([rank(0, "a", "z1"), rank(1, "a", "z1"), rank(2, "b", "z1"), rank(3, "c", "z2")]);
  assert.ok(cost);
  assert.equal(cost(0, 0, 1, [0]), 0.5);
  assert.equal(cost(0, 0, 2, [0]), 1);
  assert.equal(cost(0, 0, 3, [0, 2]), 3);
  assert.equal(cost(0, 0, 1, [3, 0]), 0.5);
  assert.equal(cost(0, 0, 1, []), 2, "from the store");
});

test("an expert replica from another rack of the zone costs more than from the same one, and less than from another zone", () => {
  const racked = (n: number, rack: string, zone: string) => ({ ...rank(n, `n${n}`, zone), rack });
  const cost = pathCost([racked(0, "r0", "z1"), racked(1, "r0", "z1"), racked(2, "r1", "z1"), racked(3, "r0", "z2")]);
  assert.deepEqual([cost?.(0, 0, 1, [0]), cost?.(0, 0, 2, [0]), cost?.(0, 0, 3, [0]), cost?.(0, 0, 2, [0, 3])], [1, 1.5, 3, 1.5]);
  assert.equal(pathCost([racked(0, "r0", "z1"), racked(1, "r0", "z1")]), undefined, "one rack");
});

test("where every rank has a node of one zone to itself, paths do not differ", () => {
  assert.equal(pathCost([rank(0, "a", ""), rank(1, "b", "")]), undefined);
});

test("plans are the very same where nodes name no rack and where all of a zone name one", async () => {
  await fc.assert(
    fc.asyncProperty(randomClusters({ layers: 3, experts: 12, ranks: 6 }), async ({ start, later }) => {
      // Some clusters are too small for their experts.
      const first = await makePlan(policies.incremental, start).catch(() => undefined);
      fc.pre(first !== undefined);
      const input = { ...later, current: first.layers };
      const racked = { ...input, ranks: input.ranks.map((one) => ({ ...one, rack: "r" })) };
      assert.deepEqual(await makePlan(policies.incremental, racked), await makePlan(policies.incremental, input));
    }),
    { numRuns: 100, seed: 1 },
  );
});

const cluster = { ranks: 16, slots: 9 };
/** Behind by this much for so many windows in a row, a plan from nothing would be worth a thought. */
const points = 0.03;
const windows = 3;

test("within one budget no plan from nothing gets three points ahead of incremental ones for three windows", async () => {
  for (const [seed, budget] of [
    [1, 12],
    [2, 64],
  ] as const) {
    const trace = generateTrace("t", { ...presets.qwen3_48x128, layers: 8, windows: 10 }, seed);
    const ours = await approached("incremental", trace, cluster, budget);
    for (const name of ["fresh each window", "fresh once"] as const) {
      const other = await approached(name, trace, cluster, budget);
      const ahead = other.balance.map((balance, t) => balance > (ours.balance[t] ?? 0) + points);
      const figures = `${name}, ${budget} expert replicas a plan: ${other.balance.map((x) => x.toFixed(3))} against ${ours.balance.map((x) => x.toFixed(3))}`;
      assert.ok(!ahead.some((_, t) => t + windows <= ahead.length && ahead.slice(t, t + windows).every((is) => is)), figures);
      const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
      assert.ok(mean(ours.balance) >= mean(other.balance), figures);
    }
  }
});
