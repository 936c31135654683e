import assert from "node:assert/strict";
import { test } from "node:test";
import { seeded } from "../../random.ts";
import { crossing, placeChain } from "./chain.ts";
import { bestLayouts } from "./layouts.ts";

test("a chain that is too large for one sweep is not searched at all: its start stays", () => {
  let asked = 0;
  const flow = (): number => {
    asked++;
    return 1;
  };
  const chain = { layers: 2, items: 2000, ranks: 2, flow };
  const start = [0, 1].map(() => Array.from({ length: 2000 }, (_, i) => i % 2));
  assert.deepEqual(placeChain(chain, start, seeded(1)), start);
  assert.ok(asked <= 4 * 2000 ** 2, `${asked} flows asked for`);
});

test("one that is small is searched until nothing is gained", () => {
  const chain = { layers: 3, items: 4, ranks: 2, flow: (_: number, i: number, j: number) => (i === (j + 1) % 4 ? 1 : 0) };
  const start = [0, 1, 2].map(() => [0, 0, 1, 1]);
  const found = placeChain(chain, start, seeded(1));
  assert.equal(crossing(chain, found), 0);
});

test("what is better is named after what is there: only items that must move do", () => {
  // Every item is followed by the one of its own number; ranks hold two each.
  for (const items of [6, 12]) {
    const chain = { layers: 5, items, ranks: items / 2, flow: (_: number, i: number, j: number) => (i === j ? 1 : 0) };
    const together = Array.from({ length: items }, (_, i) => (Math.floor(i / 2) + 1) % chain.ranks);
    const start = Array.from({ length: chain.layers }, () => together.slice());
    const row = start[2] as number[];
    [row[0], row[2]] = [row[2] as number, row[0] as number];
    assert.deepEqual(
      placeChain(chain, start, seeded(1)),
      start.map(() => together),
    );
  }
});

test("a chain with few layouts gets its optimum, any other is searched", () => {
  const random = seeded(4);
  const values = Array.from({ length: 3 * 36 }, () => random.below(100));
  const flow = (l: number, i: number, j: number): number => values[(l * 6 + i) * 6 + j] ?? 0;
  const best = bestLayouts(4, [2, 2, 2], flow) ?? [];
  const chain = { layers: 4, items: 6, ranks: 3, flow };
  const found = placeChain(chain, undefined, seeded(1));
  assert.equal(crossing(chain, found), crossing(chain, best));
  assert.equal(bestLayouts(2, new Array<number>(12).fill(1), flow), undefined);
});
