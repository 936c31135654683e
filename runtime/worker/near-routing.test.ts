// Tokens that stay in their zone: each host still gets the plan's weight, nothing changes where zones are not known, and on a made cluster
// of two zones the bytes between them drop at the same balance, which they do not where labels are shuffled.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { seeded } from "../../operator/planner/random.ts";
import { createRouter } from "../placement/dispatch.ts";
import { imbalance } from "../placement/imbalance.ts";
import { quotas, splitLayer } from "../placement/split.ts";
import { nearWeights, type Zones, zonesOf } from "./near-routing.ts";

const member = (rank: number, zone?: string, state = "active") => ({ rank, state, ...(zone === undefined ? {} : { zone }) });

test("zones are known where every rank that serves names one, and there are two", () => {
  const two = [member(0, "a"), member(1, "a"), member(2, "b"), member(3, "c", "lost")];
  assert.deepEqual(zonesOf(0, two)?.parts, new Map(Object.entries({ a: 2 / 3, b: 1 / 3 })));
  assert.equal(zonesOf(2, two)?.own, "b");
  assert.equal(zonesOf(0, [member(0, "a"), member(1, "a")]), undefined, "one zone");
  assert.equal(zonesOf(0, [member(0, "a"), member(1)]), undefined, "a rank of which nothing is known");
  assert.equal(zonesOf(0, [member(0), member(1, "a"), member(2, "b")]), undefined, "not even of itself");
  assert.equal(zonesOf(3, two), undefined, "the only one of its zone does not serve");
  assert.ok(zonesOf(0, [...two, member(4, undefined, "joining")]), "who does not serve yet brings no tokens");
  assert.equal(zonesOf(9, two), undefined);
});

const zones = (own: string, of: Record<number, string>, parts: Record<string, number>): Zones => ({
  own,
  of: new Map(Object.entries(of).map(([rank, zone]) => [Number(rank), zone])),
  parts: new Map(Object.entries(parts)),
});

test("hosts of the own zone come first, and those of others get what is left", () => {
  const even = { a: 0.5, b: 0.5 };
  const of = { 0: "a", 1: "b", 2: "b" };
  assert.deepEqual(nearWeights([0, 1], [500, 500], zones("a", of, even)), [1000, 0]);
  assert.deepEqual(nearWeights([0, 1], [500, 500], zones("b", of, even)), [0, 1000]);
  assert.deepEqual(nearWeights([0, 1, 2], [500, 300, 200], zones("b", of, even)), [0, 600, 400]);
  // The zone a computes 40% of all and has 50% of the tokens: the rest of its own goes to b, which keeps to itself.
  assert.deepEqual(nearWeights([0, 1], [400, 600], zones("a", of, even)), [800, 200]);
  assert.deepEqual(nearWeights([0, 1], [400, 600], zones("b", of, even)), [0, 1000]);
  assert.deepEqual(nearWeights([1, 2], [700, 300], zones("a", of, even)), [700, 300], "none is here");
  assert.deepEqual(nearWeights([0, 1], [0, 1000], zones("a", of, even)), [0, 1000], "an expert replica in reserve stays one");
  const untouched = [500, 500];
  assert.equal(nearWeights([0, 9], untouched, zones("a", of, even)), untouched, "a host that is no member");
  assert.equal(nearWeights([0], [1000], zones("a", of, even)).length, 1);
});

const world = fc
  .record({ ranks: fc.integer({ min: 2, max: 12 }), count: fc.integer({ min: 2, max: 4 }), seed: fc.nat() })
  .map(({ ranks, count, seed }) => {
    const random = seeded(seed);
    const members = Array.from({ length: ranks }, (_, rank) => member(rank, `z${rank < count ? rank : random.below(count)}`));
    const hosts = members.map(({ rank }) => rank).filter((rank) => rank === 0 || random.below(2) === 0);
    return { members, hosts, weights: quotas(hosts.map(() => random.below(5))) };
  });

test("when all sources deal near, every host gets the plan's weight, and no more tokens leave their zone than before", () => {
  fc.assert(
    fc.property(world, ({ members, hosts, weights }) => {
      const got = hosts.map(() => 0);
      let [before, after] = [0, 0];
      for (const { rank, zone } of members) {
        const known = zonesOf(rank, members);
        const near = known ? nearWeights(hosts, weights, known) : weights;
        assert.equal(
          near.reduce((a, b) => a + b, 0),
          1000,
        );
        hosts.forEach((host, i) => {
          got[i] = (got[i] ?? 0) + (near[i] ?? 0) / members.length;
          const leaves = members[host]?.zone !== zone;
          before += leaves ? (weights[i] ?? 0) : 0;
          after += leaves ? (near[i] ?? 0) : 0;
        });
      }
      got.forEach((weight, i) => {
        assert.ok(Math.abs(weight - (weights[i] ?? 0)) <= 1, `${got} for ${weights}`);
      });
      assert.ok(after <= before + members.length * hosts.length, "but for what is rounded");
    }),
    { seed: 1 },
  );
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
      const known =
        labels &&
        zonesOf(
          rank,
          labels.map((zone, of) => member(of, zone)),
        );
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
