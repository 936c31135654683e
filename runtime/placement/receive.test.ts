import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Fetch, receiveSchedule } from "./receive.ts";

type Moves = Parameters<typeof receiveSchedule>[0];

const move = (layer: number, expert: number, rank: number, sources: readonly number[]) => ({ layer, expert, rank, sources });

/** Distinct (layer, expert, receiver), sources that are not the receiver; a few without any source. */
function someMoves(size: { layers: number; experts: number; ranks: number; movesMax: number }): fc.Arbitrary<Moves> {
  const { layers, experts, ranks, movesMax } = size;
  const one = fc
    .record({
      layer: fc.nat(layers - 1),
      expert: fc.nat(experts - 1),
      rank: fc.nat(ranks - 1),
      sources: fc.uniqueArray(fc.nat(ranks - 1), { maxLength: 3 }),
    })
    .map((m) => ({ ...m, sources: m.sources.filter((source) => source !== m.rank) }));
  return fc.uniqueArray(one, { maxLength: movesMax, selector: (m) => `${m.layer}.${m.expert}.${m.rank}` });
}

function degrees(fetches: readonly Fetch[]): { sources: Map<number, number>; receivers: Map<number, number> } {
  const count = (keys: Iterable<number>): Map<number, number> => {
    const map = new Map<number, number>();
    for (const key of keys) map.set(key, (map.get(key) ?? 0) + 1);
    return map;
  };
  return {
    sources: count(fetches.flatMap(({ source }) => source ?? [])),
    receivers: count(fetches.map(({ rank }) => rank)),
  };
}
const most = (counts: ReadonlyMap<number, number>): number => Math.max(0, ...counts.values());

test("in a round every source sends and every receiver takes one expert at most, and there are no more rounds than the busiest rank needs", () => {
  fc.assert(
    fc.property(someMoves({ layers: 4, experts: 12, ranks: 9, movesMax: 120 }), (moves) => {
      const fetches = receiveSchedule(moves);
      assert.equal(fetches.length, moves.length);
      const taken = new Set<string>();
      for (const { source, rank, round } of fetches) {
        for (const key of [`receiver ${rank} ${round}`, ...(source === undefined ? [] : [`source ${source} ${round}`])]) {
          assert.ok(!taken.has(key), key);
          taken.add(key);
        }
      }
      const { sources, receivers } = degrees(fetches);
      const rounds = Math.max(0, ...fetches.map(({ round }) => round + 1));
      assert.equal(rounds, Math.max(most(sources), most(receivers)));
    }),
    { numRuns: 1000 },
  );
});

test("a source is one that hosts the expert, and the store only where none does; the order of the moves is of no matter", () => {
  fc.assert(
    fc.property(someMoves({ layers: 3, experts: 8, ranks: 6, movesMax: 40 }), (moves) => {
      const fetches = receiveSchedule(moves);
      for (const { layer, expert, rank, source } of fetches) {
        const asked = moves.find((m) => m.layer === layer && m.expert === expert && m.rank === rank);
        assert.ok(source === undefined ? asked?.sources.length === 0 : asked?.sources.includes(source));
      }
      assert.deepEqual(receiveSchedule(moves.toReversed()), fetches);
    }),
    { numRuns: 1000 },
  );
});

/** The least load of the busiest source over every possible choice. */
function leastLoad(moves: Moves): number {
  const withSource = moves.filter(({ sources }) => sources.length > 0);
  let best = withSource.length;
  const load = new Map<number, number>();
  const choose = (i: number): void => {
    if (most(load) >= best && i < withSource.length) return;
    const next = withSource[i];
    if (!next) {
      best = Math.min(best, most(load));
      return;
    }
    for (const source of next.sources) {
      load.set(source, (load.get(source) ?? 0) + 1);
      choose(i + 1);
      load.set(source, (load.get(source) ?? 0) - 1);
    }
  };
  choose(0);
  return best;
}

test("no other choice of sources would ask less of the busiest one", () => {
  fc.assert(
    fc.property(someMoves({ layers: 2, experts: 5, ranks: 5, movesMax: 9 }), (moves) => {
      assert.equal(most(degrees(receiveSchedule(moves)).sources), leastLoad(moves));
    }),
    { numRuns: 1000 },
  );
});

test("many receivers of the experts of one rank take turns instead of asking it all at once", () => {
  const moves = Array.from({ length: 8 }, (_, receiver) => Array.from({ length: 8 }, (_, e) => move(0, e, receiver + 1, [0]))).flat();
  const first = Map.groupBy(receiveSchedule(moves), ({ round }) => round);
  assert.equal(first.size, 64);
  assert.ok([...first.values()].every((fetches) => fetches.length === 1));
});

test("experts with a second host are read from both", () => {
  const moves = Array.from({ length: 8 }, (_, e) => move(0, e, 2 + (e % 4), [0, 1]));
  const fetches = receiveSchedule(moves);
  assert.deepEqual([...degrees(fetches).sources.values()], [4, 4]);
  assert.equal(Math.max(...fetches.map(({ round }) => round)), 3);
});
