import assert from "node:assert/strict";
import { test } from "node:test";
import { seeded } from "../random.ts";
import { crossing, placeChain } from "./chain.ts";

test("a chain that is too large for one sweep is not searched at all: its start stays", () => {
  let asked = 0;
  const flow = (): number => {
    asked++;
    return 1;
  };
  const chain = { layers: 2, items: 2000, ranks: 2, flow };
  const start = [0, 1].map(() => Array.from({ length: 2000 }, (_, i) => i % 2));
  assert.deepEqual(placeChain(chain, start, 3, seeded(1)), start);
  assert.ok(asked <= 4 * 2000 ** 2, `${asked} flows asked for`);
});

test("one that is small is searched until nothing is gained", () => {
  const chain = { layers: 3, items: 4, ranks: 2, flow: (_: number, i: number, j: number) => (i === (j + 1) % 4 ? 1 : 0) };
  const start = [0, 1, 2].map(() => [0, 0, 1, 1]);
  const found = placeChain(chain, start, 4, seeded(1));
  assert.equal(crossing(chain, found), 0);
});
