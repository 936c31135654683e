// The router honours weights, spreads sources, and keeps going around ranks that are down.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createRouter, noRank, type RoutingLayer, successor } from "./dispatch.ts";

function table(hosts: number[][], weights: number[][], epoch = 1): RoutingLayer {
  return { layer: 0, epoch, hosts, weights };
}
function countRoutes(router: ReturnType<typeof createRouter>, pairs: number, expert = 0): Map<number, number> {
  const counts = new Map<number, number>();
  for (let i = 0; i < pairs; i++) {
    const rank = router.route(0, expert);
    counts.set(rank, (counts.get(rank) ?? 0) + 1);
  }
  return counts;
}
const row = fc
  .uniqueArray(fc.nat({ max: 63 }), { minLength: 1, maxLength: 8 })
  .chain((hosts) =>
    fc.tuple(fc.constant(hosts), fc.array(fc.integer({ min: 1, max: 100 }), { minLength: hosts.length, maxLength: hosts.length })),
  )
  .map(([hosts, parts]) => {
    const total = parts.reduce((a, b) => a + b, 0);
    const weights = parts.map((w) => Math.floor((w * 1000) / total));
    weights[0] = (weights[0] ?? 0) + 1000 - weights.reduce((a, b) => a + b, 0);
    return { hosts, weights };
  });

test("over any run of pairs each host gets its weight to within one host count", () => {
  fc.assert(
    fc.property(row, fc.nat({ max: 3000 }), fc.nat({ max: 63 }), ({ hosts, weights }, pairs, rank) => {
      const router = createRouter(rank);
      router.setTables([table([hosts], [weights])]);
      const counts = countRoutes(router, pairs);
      hosts.forEach((host, i) => {
        const want = (pairs * (weights[i] ?? 0)) / 1000;
        assert.ok(Math.abs((counts.get(host) ?? 0) - want) <= hosts.length, `host ${host}: ${counts.get(host)} of ${want}`);
      });
    }),
  );
});

test("two routers of the same rank make the same choices", () => {
  fc.assert(
    fc.property(row, fc.nat({ max: 63 }), ({ hosts, weights }, rank) => {
      const [a, b] = [createRouter(rank), createRouter(rank)];
      for (const router of [a, b]) router.setTables([table([hosts], [weights])]);
      for (let i = 0; i < 100; i++) assert.equal(a.route(0, 0), b.route(0, 0));
    }),
  );
});

test("the first pairs of many sources do not all go to one host", () => {
  const first = new Set(
    Array.from({ length: 16 }, (_, rank) => {
      const router = createRouter(rank + 100);
      router.setTables([table([[0, 1]], [[500, 500]])]);
      return router.route(0, 0);
    }),
  );
  assert.equal(first.size, 2);
});

test("a rank that is down gets nothing and its weight goes to the others in proportion", () => {
  const router = createRouter(5);
  router.setTables([table([[0, 1, 2]], [[500, 300, 200]])]);
  router.setDown(new Set([0]));
  const counts = countRoutes(router, 1000);
  assert.equal(counts.get(0), undefined);
  assert.ok(Math.abs((counts.get(1) ?? 0) - 600) <= 2);
  router.setDown(new Set());
  assert.ok(Math.abs((countRoutes(router, 1000).get(0) ?? 0) - 500) <= 3);
});

test("a standby expert replica with weight 0 serves only when nobody else can", () => {
  const router = createRouter(5);
  router.setTables([table([[0, 1]], [[1000, 0]])]);
  assert.deepEqual([...countRoutes(router, 50).keys()], [0]);
  router.setDown(new Set([0]));
  assert.deepEqual([...countRoutes(router, 50).keys()], [1]);
});

test("with every host down the primary is named", () => {
  const router = createRouter(5);
  router.setTables([table([[3, 1]], [[500, 500]])]);
  router.setDown(new Set([1, 3]));
  assert.equal(router.route(0, 0), 3);
});

test("a layer without a table routes nowhere", () => {
  assert.equal(createRouter(0).route(4, 0), noRank);
  assert.equal(createRouter(0).epochOf(4), 0);
});

test("a new table of equal rows keeps the diffusion state", () => {
  const [a, b] = [createRouter(1), createRouter(1)];
  for (const router of [a, b]) router.setTables([table([[0, 1]], [[700, 300]])]);
  for (let i = 0; i < 7; i++) assert.equal(a.route(0, 0), b.route(0, 0));
  b.setTables([table([[0, 1]], [[700, 300]], 2)]);
  assert.equal(b.epochOf(0), 2);
  for (let i = 0; i < 20; i++) assert.equal(a.route(0, 0), b.route(0, 0));
});

test("the successor is one of the live ranks, the same for all, and stays when others leave", () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.nat({ max: 100 }), { minLength: 2, maxLength: 20 }),
      fc.nat({ max: 60 }),
      fc.nat({ max: 255 }),
      (live, layer, expert) => {
        const chosen = successor(layer, expert, live);
        assert.ok(chosen !== undefined && live.includes(chosen));
        assert.equal(successor(layer, expert, [...live].reverse()), chosen);
        const other = live.find((rank) => rank !== chosen);
        assert.equal(
          successor(
            layer,
            expert,
            live.filter((rank) => rank !== other),
          ),
          chosen,
        );
      },
    ),
  );
  assert.equal(successor(0, 0, []), undefined);
});

test("the sole rank of a layer is the one that every pair of it is routed to", () => {
  const layer = fc.array(fc.oneof(row, fc.constant({ hosts: [2], weights: [1_000] })), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(layer, fc.uniqueArray(fc.nat({ max: 63 }), { maxLength: 40 }), (rows, down) => {
      const router = createRouter(2);
      assert.equal(router.soleRank(0), noRank);
      const weights = rows.map((each) => [...each.weights]);
      router.setTables([
        table(
          rows.map(({ hosts }) => [...hosts]),
          weights,
        ),
      ]);
      router.setDown(new Set(down));
      const routed = new Set(rows.flatMap((_, expert) => [...countRoutes(router, 3_000, expert).keys()]));
      const [only] = routed;
      assert.equal(router.soleRank(0), routed.size === 1 ? only : undefined);
    }),
    { numRuns: 30 },
  );
});
