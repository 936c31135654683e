import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { assumedRates, type ByPath, byPath, cheapestPath, type Payback, payback, receivedBytes, transferPaths } from "./cost.ts";

const place = (rank: number, node: string, zone: string, rack?: string) => ({ rank, node, zone, rack });
const [a, b, c, d] = [place(0, "n0", "z0"), place(1, "n0", "z0"), place(2, "n1", "z0"), place(3, "n2", "z1")] as const;

const none = byPath(() => 0);

test("the cheapest path leads to the nearest source, and to the store without one", () => {
  assert.equal(cheapestPath(a, [d, c, b]), "node");
  assert.equal(cheapestPath(a, [d, c]), "zone");
  assert.equal(cheapestPath(a, [d]), "remote");
  assert.equal(cheapestPath(a, []), "store");
  const [near, same, far] = [place(4, "n4", "z0", "r0"), place(5, "n5", "z0", "r0"), place(6, "n6", "z0", "r1")] as const;
  assert.deepEqual([cheapestPath(near, [far, same]), cheapestPath(near, [far, d]), cheapestPath(near, [a])], ["zone", "rack", "zone"]);
  assert.equal(cheapestPath(near, [place(7, "n7", "z1", "r0")]), "remote", "racks of one name in two zones are two");
});

test("paths that cost more are assumed to be slower, in proportion", () => {
  assert.deepEqual(assumedRates, { node: 400e6, zone: 200e6, rack: 400e6 / 3, remote: 400e6 / 6, store: 100e6 });
});

test("bytes are counted at their receiver by the path to the source that the receive schedule names", () => {
  const places = new Map([a, b, c, d].map((of) => [of.rank, of]));
  const move = (expert: number, rank: number, sources: number[], bytes: number) => ({ layer: 0, expert, rank, sources, bytes });
  const received = receivedBytes([move(0, 0, [1], 10), move(1, 0, [2], 20), move(2, 0, [9], 40), move(3, 3, [0], 80)], places);
  assert.deepEqual(received.get(0), { ...none, node: 10, zone: 20, store: 40 }, "rank 9 is not there: the store");
  assert.deepEqual(received.get(3), { ...none, remote: 80 });
});

const base: Payback = {
  ...{ before: 2, after: 1.5, moves: 3, lifetimeSeconds: 100, limit: Number.POSITIVE_INFINITY },
  rates: { node: 400, zone: 200, rack: 130, remote: 50, store: 100 },
  received: [
    { ...none, node: 400, zone: 400 },
    { ...none, remote: 100, store: 300 },
  ],
};

test("a transfer takes as long as the receiver that takes longest, each path at its rate and none above the limit", () => {
  // 400/400 + 400/200 = 3 s, 100/50 + 300/100 = 5 s.
  assert.equal(payback(base).transferSeconds, 5);
  assert.equal(payback(base).costSeconds, 5 * 0.1 + 3 * 0.002);
  assert.equal(payback(base).gainSeconds, 25);
  // 800/80 = 10 s, 100/50 + 300/80 = 5.75 s.
  assert.equal(payback({ ...base, limit: 80 }).transferSeconds, 10);
  assert.equal(payback({ ...base, received: [], moves: 0 }).costSeconds, 0, "weights cost nothing");
});

const amount = fc.double({ min: 0, max: 1e12, noNaN: true });
const rate = fc.double({ min: 1, max: 1e10, noNaN: true });
const record = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<Record<keyof ByPath, T>> =>
  fc.record({ node: of, zone: of, rack: of, remote: of, store: of });
const plan: fc.Arbitrary<Payback & { received: ByPath[] }> = fc.record({
  before: fc.double({ min: 1, max: 10, noNaN: true }),
  after: fc.double({ min: 1, max: 10, noNaN: true }),
  received: fc.array(record(amount), { minLength: 1, maxLength: 6 }),
  moves: fc.nat(100_000),
  rates: record(rate),
  limit: rate,
  lifetimeSeconds: fc.double({ min: 0, max: 1e5, noNaN: true }),
});
const worth = (p: Payback): number => payback(p).gainSeconds - payback(p).costSeconds;
const factor = fc.double({ min: 1, max: 100, noNaN: true });
const path = fc.constantFrom(...transferPaths);

test("more bytes, a slower path or more moves never make a plan more worth it", () => {
  fc.assert(
    fc.property(plan, path, factor, fc.nat(5), (p, by, times, who) => {
      const heavier = p.received.map((of, i) => (i === who % p.received.length ? { ...of, [by]: of[by] * times } : of));
      assert.ok(worth({ ...p, received: heavier }) <= worth(p));
      assert.ok(worth({ ...p, rates: { ...p.rates, [by]: p.rates[by] / times } }) <= worth(p));
      assert.ok(worth({ ...p, limit: p.limit / times }) <= worth(p));
      assert.ok(worth({ ...p, moves: p.moves + who }) <= worth(p));
    }),
    { numRuns: 2000, seed: 1 },
  );
});

test("a longer lifetime or a greater gain never makes it less worth it", () => {
  fc.assert(
    fc.property(plan, factor, (p, times) => {
      assert.ok(worth({ ...p, lifetimeSeconds: p.lifetimeSeconds * times }) >= worth(p));
      assert.ok(worth({ ...p, after: p.after / times }) >= worth(p));
    }),
    { numRuns: 2000, seed: 2 },
  );
});
