// Schedules: all expert replicas arrive once, pieces are passed on only by who has them, and bytes and rounds are as the laws say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { gatherBytes, movedShare, reduceBytes } from "../../../test/kit/planner/collective-bytes.ts";
import { placements } from "../../../test/kit/planner/random-placements.ts";
import { type Edges, gatherSchedule, reduceSchedule, type Transfer } from "./collectives.ts";

/** Experts whole, and cut into slices that have primaries of their own. */
const cases = [1, 2, 4].flatMap((slices) => placements(500, slices));
const pieces = 4;

/** Other ways than the chain, to compare it with. */
const tree: Edges = (ranks) =>
  ranks.slice(1).map((to, i) => {
    const parent = i + 1 - 2 ** Math.floor(Math.log2(i + 1));
    return { from: ranks[parent]!, to, after: parent - 1 };
  });
const unicast: Edges = (ranks) => ranks.slice(1).map((to) => ({ from: ranks[0]!, to, after: -1 }));

/** Pieces that each rank sends and receives. */
function traffic(transfers: readonly Transfer[], ranks: number) {
  const [sent, received] = [new Array<number>(ranks).fill(0), new Array<number>(ranks).fill(0)];
  for (const { from, to } of transfers) {
    sent[from] = sent[from]! + 1;
    received[to] = received[to]! + 1;
  }
  return { sent, received };
}

for (const [name, edges] of Object.entries({ chain: undefined, tree, unicast })) {
  test(`spAG by ${name}: each host gets each piece once, from a rank that has it`, () => {
    for (const placement of cases) {
      const has = new Set(
        placement.primaries.flatMap((primary, chunk) => Array.from({ length: pieces }, (_, piece) => `${primary} ${chunk} ${piece}`)),
      );
      const transfers = gatherSchedule(placement, pieces, edges);
      const arriving = Map.groupBy(transfers, ({ round }) => round);
      for (const round of [...arriving.keys()].sort((a, b) => a - b)) {
        const now = arriving.get(round)!;
        assert.equal(new Set(now.map(({ from }) => from)).size, now.length, "one piece is sent a round");
        assert.equal(new Set(now.map(({ to }) => to)).size, now.length, "one piece is received a round");
        for (const { from, chunk, piece } of now) assert.ok(has.has(`${from} ${chunk} ${piece}`));
        for (const { to, chunk, piece } of now) {
          assert.ok(!has.has(`${to} ${chunk} ${piece}`));
          has.add(`${to} ${chunk} ${piece}`);
        }
      }
      assert.equal(has.size, pieces * placement.hosts.flat().length);
      assert.equal(transfers.length, pieces * gatherBytes(placement.hosts, 1));
    }
  });
}

/** Cases in which a rank sends or receives more than 1.02 times what leaves its primary: lambda x the layer. */
function beyondBound(edges?: Edges): number {
  return cases.filter((placement) => {
    const { sent, received } = traffic(gatherSchedule(placement, pieces, edges), placement.ranks);
    const most = 1.02 * movedShare(placement.hosts) * placement.hosts.length * pieces;
    return Math.max(...sent, ...received) > most;
  }).length;
}

test("by chain no rank sends or receives more than lambda x the layer's bytes; by unicast some do", () => {
  assert.equal(beyondBound(), 0);
  assert.ok(beyondBound(unicast) > 0.1 * cases.length);
});

test("one chunk to three ranks takes 3, 2 and about 1 times its length by unicast, tree and chain", () => {
  const placement = { primaries: [0], hosts: [[0, 1, 2, 3]], node: [0, 1, 2, 3] };
  const many = 64;
  const lengthOf = (edges?: Edges): number => (gatherSchedule(placement, many, edges).at(-1)!.round + 1) / many;
  assert.equal(lengthOf(unicast), 3);
  assert.ok(lengthOf(tree) >= 1.9 && lengthOf(tree) <= 2.1, `${lengthOf(tree)}`);
  assert.ok(lengthOf() <= 1.05, `${lengthOf()}`);
});

test("each piece has the first round in which its sender has it and sends nothing else, and its receiver gets nothing else", () => {
  for (const placement of cases) {
    const taken = new Set<string>();
    const found = new Map(
      gatherSchedule(placement, pieces, unicast).map((transfer) => [`${transfer.piece} ${transfer.chunk} ${transfer.to}`, transfer]),
    );
    for (let piece = 0; piece < pieces; piece++)
      for (const [chunk, row] of placement.hosts.entries()) {
        const primary = placement.primaries[chunk]!;
        const far = (rank: number): number => (placement.node[rank] === placement.node[primary] ? -1 : placement.node[rank]!);
        const others = row.filter((rank) => rank !== primary).toSorted((a, b) => far(a) - far(b) || a - b);
        for (const to of others) {
          let round = 0;
          while (taken.has(`${round} from ${primary}`) || taken.has(`${round} to ${to}`)) round++;
          taken.add(`${round} from ${primary}`).add(`${round} to ${to}`);
          assert.equal(found.get(`${piece} ${chunk} ${to}`)!.round, round);
        }
      }
  }
});

test("a schedule of many pieces is made in time that grows as they do", () => {
  const primaries = [0, 0, 1, 1, 2, 2, 3, 3];
  const placement = {
    primaries,
    hosts: primaries.map((primary) => [primary, ...[0, 1, 2, 3].filter((rank) => rank !== primary)]),
    node: [0, 1, 2, 3],
  };
  const start = process.cpuUsage();
  assert.equal(gatherSchedule(placement, 5000).length, 8 * 3 * 5000);
  const { user } = process.cpuUsage(start);
  assert.ok(user < 5e6, `${user} us; looking at each round again takes minutes`);
});

test("a chain goes through a primary's node first and enters each other node once", () => {
  const placement = { primaries: [1], hosts: [[1, 0, 2, 3, 4, 5]], node: [1, 0, 1, 0, 2, 2] };
  const path = gatherSchedule(placement, 1).map(({ from, to }) => [from, to]);
  assert.deepEqual(path, [
    [1, 3],
    [3, 0],
    [0, 2],
    [2, 4],
    [4, 5],
  ]);
});

test("spRS: sums pass hosts in the order of micro-batches and end at the primary, in as many bytes as the law says", () => {
  for (const { blocks, primaries } of cases) {
    const transfers = reduceSchedule({ blocks, primaries, carried: false }, pieces);
    assert.equal(transfers.length, pieces * reduceBytes({ blocks, primaries, carried: false }, 1));
    for (const [chunk, runs] of blocks.entries()) {
      const way = transfers.filter((transfer) => transfer.chunk === chunk && transfer.piece === 0);
      if (way.length > 0) assert.equal(way.at(-1)!.to, primaries[chunk]);
      assert.deepEqual(
        way.map(({ from }) => from),
        runs.map(({ host }) => host).slice(0, way.length),
      );
    }
  }
});
