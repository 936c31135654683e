// Handover between any ranks: everybody who is to hold a unit gets it from one that has it, nothing moves without need, and new primaries are
// as even as dealt ones.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../kernels/random.ts";
import { handover, primariesNear } from "./handover.ts";

test("what is there stays, and the load of sending is shared", () => {
  const held = [new Set([0, 1, 2]), new Set([0, 1, 2]), new Set<number>()];
  const transfers = handover({ held, wanted: [[0, 2], [1, 2], [2]], floats: [10, 10, 10] });
  assert.deepEqual(transfers, [
    { unit: 0, from: 0, to: 0 },
    { unit: 0, from: 0, to: 2 },
    { unit: 1, from: 1, to: 1 },
    { unit: 1, from: 1, to: 2 },
    { unit: 2, from: 0, to: 2 },
  ]);
  assert.throws(() => handover({ held: [new Set()], wanted: [[0]], floats: [1] }), /nobody holds unit 0/);
});

test("every wanted unit comes once to whoever is to hold it, from one that holds it", () => {
  const next = uniform(2);
  for (let turn = 0; turn < 300; turn++) {
    const [ranks, units] = [1 + Math.floor(5 * next()), Math.floor(12 * next())];
    const held = Array.from({ length: ranks }, () => new Set<number>());
    for (let unit = 0; unit < units; unit++)
      for (let expertReplicas = 0; expertReplicas < 2; expertReplicas++) held[Math.floor(ranks * next())]!.add(unit);
    const wanted = Array.from({ length: units }, () => [...held.keys()].filter(() => next() < 0.5));
    const transfers = handover({ held, wanted, floats: new Array<number>(units).fill(4) });
    assert.deepEqual(
      transfers.map(({ unit, to }) => [unit, to]),
      wanted.flatMap((row, unit) => row.map((to) => [unit, to])),
    );
    for (const { unit, from, to } of transfers) {
      assert.ok(held[from]!.has(unit));
      assert.equal(from === to, held[to]!.has(unit));
    }
  }
});

test("primaries near their state are as many for each rank as dealt ones, and none moves that has room", () => {
  const next = uniform(3);
  for (let turn = 0; turn < 300; turn++) {
    const [ranks, experts] = [1 + Math.floor(6 * next()), 1 + Math.floor(16 * next())];
    const holders = Array.from({ length: experts }, () => Array.from({ length: 2 }, () => Math.floor((ranks + 1) * next())));
    const primaries = primariesNear(holders, ranks);
    const dealt = Array.from({ length: experts }, (_, expert) => Math.floor((expert * ranks) / experts));
    const counts = (of: readonly number[]): number[] =>
      Array.from({ length: ranks }, (_, rank) => of.filter((primary) => primary === rank).length);
    assert.deepEqual(counts(primaries), counts(dealt));
    assert.deepEqual(
      primariesNear(
        primaries.map((primary) => [primary]),
        ranks,
      ),
      primaries,
    );
  }
});
