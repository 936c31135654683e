// The forecast of loads beside an exact simulation: random routing, a memory of slots for each rank, eviction of the least used.
import assert from "node:assert/strict";
import { test } from "node:test";
import { modelShape, planInput, rankSpec } from "../../test/kit/planner/plan-input.ts";
import type { PlanInput } from "./policy.ts";
import { type Random, seeded } from "./random.ts";
import { firstPlan } from "./repair.ts";
import { servedBudgets } from "./served.ts";
import { forecastTiers, type TiersInput } from "./tiers.ts";

const layers = 4;
const experts = 16;
const topK = 2;
const bytes = 10;

function world(ranks: number, part: number, skew: number): TiersInput {
  const shape = modelShape(layers, experts, bytes);
  const budgetBytes = Math.round((part * layers * experts * bytes) / ranks / bytes) * bytes + bytes;
  const load = Float64Array.from({ length: layers * experts }, (_, i) => 1 / (1 + ((i * 7 + Math.floor(i / experts)) % experts)) ** skew);
  const specs = servedBudgets(
    shape,
    Array.from({ length: ranks }, (_, rank) => rankSpec(rank, { budgetBytes })),
  );
  const input: PlanInput = planInput(shape, specs, { load });
  return { shape, ranks: specs, load, layers: firstPlan(input), topK, bytesPerSecond: 100 };
}

/** topK different experts of a layer, each chosen by the load of those that are left. */
function chosen(load: Float64Array, layer: number, random: Random): number[] {
  const weights = [...load.subarray(layer * experts, (layer + 1) * experts)];
  return Array.from({ length: topK }, () => {
    let at = random.next() * weights.reduce((a, b) => a + b, 0);
    const e = weights.findIndex((weight) => {
      at -= weight;
      return at < 0;
    });
    weights[e] = 0;
    return e;
  });
}

/** Selections are counted first, as telemetry does, and memory is full before what is counted. */
function simulated({ layers: plan, load, ranks, shape }: TiersInput, tokens: number) {
  const random = seeded(7);
  const used = new Float64Array(layers * experts);
  const held = ranks.map(() => new Set<number>());
  const slots = ranks.map(({ memoryBytes = 0 }) => memoryBytes / bytes);
  let [loads, stallBytes, counted] = [0, 0, 0];
  for (let token = 0; token < 2 * tokens; token++) {
    const counts = token >= tokens;
    if (counts) counted++;
    for (let layer = 0; layer < shape.layers; layer++) {
      const loaded = ranks.map(() => 0);
      for (const e of chosen(load, layer, random)) {
        const key = layer * experts + e;
        used[key] = (used[key] as number) + 1;
        const rank = plan[layer]?.hosts[e]?.[0] as number;
        const memory = held[rank] as Set<number>;
        if (memory.has(key)) continue;
        loaded[rank] = (loaded[rank] as number) + bytes;
        memory.add(key);
        if (memory.size <= (slots[rank] as number)) continue;
        const least = [...memory].filter((one) => one !== key).reduce((a, b) => ((used[a] as number) <= (used[b] as number) ? a : b));
        memory.delete(least);
      }
      if (!counts) continue;
      loads += loaded.reduce((a, b) => a + b / bytes, 0);
      stallBytes += Math.max(...loaded);
    }
  }
  return { loadsPerToken: loads / counted, stallBytes: stallBytes / counted, used };
}

for (const { ranks, part, skew } of [
  { ranks: 1, part: 0.75, skew: 1 },
  { ranks: 1, part: 0.35, skew: 0.5 },
  { ranks: 3, part: 0.75, skew: 1 },
  { ranks: 3, part: 0.5, skew: 1 },
  { ranks: 3, part: 0.35, skew: 0 },
]) {
  test(`loads and waits of ${ranks} ranks with ${part} of the bytes, skew ${skew}, are as simulated`, () => {
    const given = world(ranks, part, skew);
    const { loadsPerToken, stallBytes, used } = simulated(given, 8_000);
    const {
      loadsPerToken: expected,
      stallSeconds = 0,
      missShare,
      bytesPerToken,
      loadSeconds,
      ranks: byRank,
    } = forecastTiers({ ...given, load: used });
    const near = (a: number, b: number, what: string, by = 0.08) =>
      assert.ok(Math.abs(a / b - 1) < by, `${what}: ${a} where ${b} was simulated`);
    near(expected, loadsPerToken, "loads");
    near(stallSeconds * 100, stallBytes, "bytes waited for", 0.12); // a token chooses exactly topK
    near(bytesPerToken, expected * bytes, "bytes");
    const each = [...byRank.values()].map((rank) => rank.bytesPerToken);
    assert.equal(each.length, ranks);
    near(
      each.reduce((a, b) => a + b),
      bytesPerToken,
      "bytes of all ranks",
      1e-9,
    );
    assert.equal(loadSeconds, Math.max(...each) / 100);
    assert.equal(missShare, expected / (topK * layers));
  });
}

test("what memory holds misses nothing, and a rate that is unknown leaves times unknown", () => {
  const { bytesPerSecond: _, ...given } = world(2, 1, 1);
  const { missShare, kept, served, stallSeconds, loadSeconds } = forecastTiers(given);
  assert.deepEqual([missShare, kept, served, stallSeconds, loadSeconds], [0, 64, 64, undefined, undefined]);
  assert.equal(forecastTiers({ ...world(2, 0.5, 1), bytesPerSecond: undefined }).stallSeconds, undefined);
});
