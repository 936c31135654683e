import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Random, seeded } from "../../random.ts";
import { LayerState, none, raise } from "../layer-state.ts";
import { above, basinOf, levelWith, meets, spillLevel } from "./bounds.ts";

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

test("an ejection chain that the bounds rule out is never priced below the ceiling", () => {
  let ruledOut = 0;
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), (seed) => {
      const random = seeded(seed);
      const state = randomState(random);
      const pick = (): number => random.below(state.hosts.length);
      const [d, e, f] = [pick(), pick(), pick()];
      const [dHosts, hosts, fHosts] = [d, e, f].map((expert) => state.hosts[expert]) as [number[], number[], number[]];
      const third = dHosts[random.below(dHosts.length)] as number;
      const rank = fHosts[0] as number;
      if (new Set([d, e, f]).size < 3 || dHosts.length < 2 || fHosts.length !== 1 || hosts.includes(rank) || rank === third) return;
      if (hosts.includes(third) || dHosts.includes(rank) || meets(dHosts, third, hosts)) return;
      if ((state.speed[rank] as number) <= 0 || (state.speed[third] as number) <= 0) return;
      const level = Math.max(spillLevel(state, d, third), levelWith(state, basinOf(state, e), rank, state.rowsOn(f, rank)));
      state.begin();
      for (const expert of [d, f, e]) state.take(expert);
      state.give(d, third, none);
      state.give(f, rank, third);
      state.give(e, none, rank);
      const total = state.finish();
      for (const ceiling of [1, 1.2, 1.5, 2, 3]) {
        if (!above(level, ceiling)) continue;
        ruledOut++;
        assert.ok(total >= raise(ceiling) * (1 - 1e-9), `${total} is below ${raise(ceiling)} at a level of ${level}`);
      }
    }),
    { numRuns: 20_000, seed: 2 },
  );
  assert.ok(ruledOut > 100, `${ruledOut} ceilings ruled out`);
});
