// Tokens that stay on their rank and in their zone: each host still gets the plan's weight, and on a made cluster of two zones the bytes
// between them drop at the same balance, which they hardly do where labels are shuffled.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seeded } from "../../operator/planner/random.ts";
import { createRouter } from "./dispatch.ts";
import { imbalance, sum } from "./imbalance.ts";
import { nearWeights, type Sources, sourcesOf } from "./near-weights.ts";
import { quotas, splitLayer } from "./split.ts";

const member = (rank: number, zone?: string, state = "active") => ({ rank, state, ...(zone === undefined ? {} : { zone }) });

test("every rank that serves is a source, and so is the own one; who names no zone is in one with the like", () => {
  const sources = sourcesOf(0, [member(1, "a"), member(0, "a"), member(2), member(3, "b", "lost")]);
  assert.deepEqual(
    [...sources.tokens],
    [0, 1, 2].map((rank) => [rank, 1 / 3]),
  );
  assert.deepEqual(sources.zoneTokens, new Map(Object.entries({ a: 2 / 3, "": 1 / 3 })));
  assert.deepEqual(sourcesOf(3, [member(1), member(3, "b", "joining")]).zoneTokens, new Map(Object.entries({ "": 0.5, b: 0.5 })));
  assert.deepEqual([...sourcesOf(9, []).tokens], [[9, 1]], "nobody is known yet");
});

const seen = (own: number, ...zones: readonly string[]) =>
  sourcesOf(
    own,
    zones.map((zone, rank) => member(rank, zone)),
  );
const cases: readonly (readonly [string, Sources, number[], number[], number[]])[] = [
  ["a copy on both ranks", seen(0, "", ""), [0, 1], [500, 500], [1000, 0]],
  ["the own copy is not the primary", seen(1, "", ""), [0, 1], [500, 500], [0, 1000]],
  ["thirds are rounded in a plan", seen(1, "", "", ""), [0, 1, 2], [334, 333, 333], [0, 1000, 0]],
  ["the own copy has less weight than tokens", seen(0, "", ""), [0, 1], [400, 600], [800, 200]],
  ["it has more", seen(1, "", ""), [0, 1], [400, 600], [0, 1000]],
  ["only others have copies, and need less than they have", seen(2, "", "", "", ""), [0, 1], [600, 400], [700, 300]],
  ["the zone after the rank", seen(0, "a", "a", "b", "b"), [1, 2], [500, 500], [1000, 0]],
  ["what the zone cannot take goes to the other", seen(0, "a", "a", "b", "b"), [1, 2], [400, 600], [600, 400]],
  ["a copy in reserve stays one", seen(0, "a", "b"), [0, 1], [0, 1000], [0, 1000]],
  ["a host that is no member has no tokens", seen(0, ""), [0, 9], [400, 600], [400, 600]],
  ["one host", seen(1, "", ""), [0], [1000], [1000]],
];
for (const [name, sources, hosts, weights, near] of cases) {
  test(`near first: ${name}`, () => assert.deepEqual(nearWeights(hosts, weights, sources), near));
}

const world = fc
  .record({ ranks: fc.integer({ min: 2, max: 70 }), count: fc.integer({ min: 1, max: 4 }), seed: fc.nat(), skew: fc.nat({ max: 5 }) })
  .map(({ ranks, count, seed, skew }) => {
    const random = seeded(seed);
    const members = Array.from({ length: ranks }, (_, rank) => member(rank, `z${rank < count ? rank : random.below(count)}`));
    const hosts = members.map(({ rank }) => rank).filter((rank) => rank === 0 || skew === 0 || random.below(2) === 0);
    return { members, hosts, weights: quotas(hosts.map(() => (skew === 0 ? 1 : random.below(skew)))) };
  });

test("when all sources deal near, every host gets the plan's weight, and rows stay on their rank as far as it allows", () => {
  fc.assert(
    fc.property(world, ({ members, hosts, weights }) => {
      const got = hosts.map(() => 0);
      let [before, after] = [0, 0];
      const even = 1000 / members.length;
      for (const { rank, zone } of members) {
        const near = nearWeights(hosts, weights, sourcesOf(rank, members));
        const own = hosts.indexOf(rank);
        const most = Math.min(1000, ((weights[own] ?? 0) * 1000) / even);
        assert.equal(sum(near), 1000);
        assert.ok((near[own] ?? 0) > most - 1, `${near[own]} of ${most} per mille stay on rank ${rank}`);
        hosts.forEach((host, i) => {
          got[i] = (got[i] ?? 0) + (near[i] ?? 0) / members.length;
          const leaves = members[host]?.zone !== zone;
          before += leaves ? (weights[i] ?? 0) : 0;
          after += leaves ? (near[i] ?? 0) : 0;
        });
      }
      got.forEach((weight, i) => {
        assert.ok(Math.abs(weight - (weights[i] ?? 0)) <= 2, `${got} for ${weights}`);
      });
      assert.ok(after <= before + members.length * hosts.length, "but for what is rounded");
    }),
    { seed: 1 },
  );
});

test("a layer that every rank has with equal weights is computed where its tokens are", () => {
  for (const ranks of [2, 3, 6, 7, 63]) {
    const hosts = Array.from({ length: ranks }, (_, rank) => rank);
    const weights = quotas(hosts.map(() => 1));
    const members = hosts.map((rank) => member(rank));
    for (const rank of hosts) {
      const router = createRouter(rank);
      router.setTables([{ layer: 0, epoch: 1, hosts: [hosts], weights: [nearWeights(hosts, weights, sourcesOf(rank, members))] }]);
      assert.equal(router.soleRank(0), rank, `${ranks} ranks`);
    }
  }
});

const layers = 2;
const experts = 64;
const ranks = 8;
const tokens = 2000;

/** Rows that leave their zone, and max/mean of the ranks' rows, where each source deals by `labels`; undefined: by the plan alone. */
function dealt(labels: readonly string[] | undefined): { readonly crossing: number; readonly imbalance: number } {
  const random = seeded(7);
  const truly = (rank: number): string => (rank < ranks / 2 ? "a" : "b");
  let [rows, crossed] = [0, 0];
  const load = new Float64Array(ranks);
  for (let layer = 0; layer < layers; layer++) {
    const demand = Float64Array.from({ length: experts }, () => random.next() ** 6);
    const total = demand.reduce((a, b) => a + b, 0);
    // The hottest third has an expert replica in each zone, as a planner with room would have it.
    const hottest = [...demand.keys()].sort((a, b) => (demand[b] ?? 0) - (demand[a] ?? 0)).slice(0, Math.floor(experts / 3));
    const hosts = Array.from({ length: experts }, (_, e) => (hottest.includes(e) ? [e % ranks, (e + ranks / 2) % ranks] : [e % ranks]));
    const weights = splitLayer({ demand, hosts, speed: new Float64Array(ranks).fill(1) }).rows.map((row) => quotas(row));
    for (let rank = 0; rank < ranks; rank++) {
      const known = labels && seen(rank, ...labels);
      const near = known ? weights.map((row, e) => nearWeights(hosts[e] ?? [], row, known)) : weights;
      const router = createRouter(rank);
      router.setTables([{ layer, epoch: 1, hosts, weights: near }]);
      for (let expert = 0; expert < experts; expert++) {
        const pairs = Math.round(((demand[expert] ?? 0) / total) * tokens);
        for (let n = 0; n < pairs; n++) {
          const to = router.route(layer, expert);
          load[to] = (load[to] ?? 0) + 1;
          rows++;
          if (truly(to) !== truly(rank)) crossed++;
        }
      }
    }
  }
  return { crossing: crossed / rows, imbalance: imbalance(load, new Float64Array(ranks).fill(1)) };
}

test("on a cluster of two zones the rows between them drop by more than half at the same balance; with labels shuffled they do not", () => {
  const plain = dealt(undefined);
  const near = dealt(["a", "a", "a", "a", "b", "b", "b", "b"]);
  const shuffled = dealt(["a", "b", "a", "b", "b", "a", "b", "a"]);
  assert.ok(Math.abs(plain.crossing - 0.5) < 0.02, `${plain.crossing}: by the plan alone half of them cross`);
  assert.ok(near.crossing < 0.5 * plain.crossing, `${near.crossing} of ${plain.crossing}`);
  assert.ok(shuffled.crossing > 0.9 * plain.crossing, `${shuffled.crossing} of ${plain.crossing}`);
  assert.ok(Math.abs(near.imbalance - plain.imbalance) < 0.01, `${near.imbalance} and ${plain.imbalance}`);
});
