import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { diffPlans } from "../../../../runtime/placement/diff.ts";
import { withFloor } from "../../expert-replicas.ts";
import { checkMemory } from "../../feasibility.ts";
import { planIncremental } from "../../policies/incremental.ts";
import { type PlanInput, unlimited } from "../../policy.ts";
import { fitsMemory, type Hosts, toProblem } from "../../problem.ts";
import { type Random, seeded } from "../../random.ts";
import { firstPlan } from "../../repair.ts";
import { LayerState, none, raise } from "../layer-state.ts";
import { above, basinOf, levelWith, meets, spillLevel } from "./bounds.ts";

/** Layers that share a tight memory, experts of different sizes, and expert replicas that may give way to others. */
function crowded(seed: number, speeds: readonly number[] = [1, 1, 1, 1]): PlanInput {
  const random = seeded(seed);
  const shape = { layers: 2 + random.below(4), experts: 34 + random.below(10) };
  const cells = shape.layers * shape.experts;
  const bytes = Float64Array.from({ length: cells }, () => 1 + random.below(4));
  const need = bytes.reduce((a, b) => a + b, 0);
  const budgetBytes = Math.ceil((need / 4) * (1.1 + random.next() / 2)) + 4;
  const ranks = speeds.map((speed, rank) => ({ rank, speed, budgetBytes, zone: "", node: `n${rank}`, state: "active" as const }));
  const input: PlanInput = {
    ...{ shape: { ...shape, residentBytes: bytes, storedBytes: bytes }, ranks, load: new Float64Array(cells).fill(1), current: undefined },
    ...{ budget: unlimited, minExpertReplicas: 2, split: "weighted", effort: "fast", gainPerMove: 1e-5 },
  };
  if (!checkMemory(input.shape, ranks).ok) return input;
  const load = Float64Array.from({ length: cells }, () => 1000 * random.next() ** 6);
  return { ...input, load, minExpertReplicas: 1, current: withFloor(input, firstPlan(input)).layers };
}

test("an expert replica that makes room for another layer's is there, and large enough, when it goes: no rank ends above its memory", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), (seed) => {
      const input = crowded(seed);
      if (!input.current) return;
      const { layers } = planIncremental(input);
      const problem = toProblem({ ...input, current: layers });
      assert.ok(fitsMemory(problem, problem.current as Hosts));
    }),
    { numRuns: 200, seed: 1 },
  );
});

test("a layer that gained less than its noise does not go back to room that another has taken", () => {
  const [layers, experts, count] = [6, 40, 8];
  const bytes = new Float64Array(layers * experts).fill(1);
  const budgetBytes = Math.ceil((bytes.length / count) * 1.02) + 1;
  const ranks = Array.from({ length: count }, (_, rank) => ({ rank, speed: 1, budgetBytes, zone: "", node: "", state: "active" as const }));
  let back = 0;
  for (let seed = 1; seed <= 80; seed++) {
    const random = seeded(seed);
    const load = Float64Array.from(bytes, () => 1000 * random.next() ** 2);
    const noise = Float64Array.from({ length: layers }, () => 0.05 * random.next());
    const input: PlanInput = {
      ...{ shape: { layers, experts, residentBytes: bytes, storedBytes: bytes }, ranks, load, current: undefined },
      ...{ budget: unlimited, minExpertReplicas: 1, split: "weighted", effort: "quality", gainPerMove: 1e-4 },
    };
    const current = planIncremental({ ...input, current: firstPlan(input) }).layers;
    const next = { ...input, current, load: load.map((rows) => 0.8 * rows + 200 * random.next() ** 2), noise };
    const planned = planIncremental(next).layers;
    const problem = toProblem({ ...input, current: planned });
    assert.ok(fitsMemory(problem, problem.current as Hosts), `seed ${seed}`);
    if (planned.some((layer, l) => layer.hosts === current[l]?.hosts) && planned.some((layer, l) => layer !== current[l])) back++;
  }
  assert.ok(back > 20, `${back} plans in which some layers stay and others do not`);
});

test("a rank that computes nothing is given nothing, not even in the place of another layer's expert replica", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), (seed) => {
      const input = crowded(seed, [1, 0, 1, 1]);
      const moves = input.current ? diffPlans(input.current, planIncremental(input).layers, () => 1).moves : [];
      assert.deepEqual(
        moves.filter((move) => move.rank === 1),
        [],
      );
    }),
    { numRuns: 100, seed: 2 },
  );
});

/** Ranks of different speeds, one of them perhaps without any; experts on one to three of them. */
function randomState(random: Random): LayerState {
  const ranks = 3 + random.below(4);
  const speed = Float64Array.from({ length: ranks }, () => (random.below(8) === 0 ? 0 : 0.5 + random.next()));
  const experts = 4 + random.below(8);
  const demand = Float64Array.from({ length: experts }, () => Math.round(1000 * random.next() ** 3));
  const hosts = Array.from({ length: experts }, () => {
    const row = new Set([random.below(ranks)]);
    for (let i = random.below(3); i > 0; i--) row.add(random.below(ranks));
    return [...row];
  });
  return new LayerState({ layer: 0, demand, hosts, speed, equal: random.below(4) === 0 });
}

test("a replacement that the bounds rule out is never priced below the ceiling", () => {
  let ruledOut = 0;
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), (seed) => {
      const random = seeded(seed);
      const state = randomState(random);
      const f = random.below(state.hosts.length);
      const e = random.below(state.hosts.length);
      const [fHosts, hosts] = [state.hosts[f] as number[], state.hosts[e] as number[]];
      const rank = fHosts[random.below(fHosts.length)] as number;
      // The search asks for these: a redundant expert replica, a receiver that is not there yet, ranks that compute.
      if (e === f || fHosts.length < 2 || hosts.includes(rank) || (state.speed[rank] as number) <= 0 || meets(fHosts, rank, hosts)) return;
      const level = Math.max(spillLevel(state, f, rank), levelWith(state, basinOf(state, e), rank, state.rowsOn(f, rank)));
      state.begin();
      state.take(f);
      state.take(e);
      state.give(f, rank, none);
      state.give(e, none, rank);
      const total = state.finish();
      for (const ceiling of [1, 1.05, 1.2, 1.5, 2, 3]) {
        if (!above(level, ceiling)) continue;
        ruledOut++;
        assert.ok(total >= raise(ceiling) * (1 - 1e-9), `${total} is below ${raise(ceiling)} at a level of ${level}`);
      }
    }),
    { numRuns: 5_000, seed: 1 },
  );
  assert.ok(ruledOut > 1_000, `${ruledOut} ceilings ruled out`);
});
