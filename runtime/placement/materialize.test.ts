import assert from "node:assert/strict";
import { test } from "node:test";
import { materialize } from "./materialize.ts";

const own = (primaries: number[]): number[][] => primaries.map((rank) => [rank]);

test("when every rank has room for all of the hottest experts, every rank gets them", () => {
  const hosts = materialize({
    ...{ load: [9, 1, 8, 1], primaries: own([0, 1, 2, 0]), ranks: 3, node: [0, 1, 2] },
    ...{ free: [2, 2, 2], top: 2 },
  });
  assert.deepEqual(hosts, [[0, 1, 2], [1], [2, 0, 1], [0]]);
});

test("fewer slots are dealt to the hottest in proportion to their load, and slots beyond the overlap degree stay empty", () => {
  // 4 slots for 6 and 3: 2.67 and 1.33, so 3 and 1.
  const p = { load: [6, 3, 1, 1], primaries: own([0, 1, 2, 3]), ranks: 4, node: [0, 1, 2, 3], top: 2 };
  assert.deepEqual(materialize({ ...p, free: [1, 1, 1, 1] }), [[0, 1, 2, 3], [1, 0], [2], [3]]);
  const uneven = materialize({ ...p, top: 1, free: [9, 0, 1, 9] });
  assert.deepEqual(uneven, [[0, 2, 3], [1], [2], [3]], "one expert, so one slot a rank");
});

test("an expert replica goes to a node without one before it goes where most slots are free", () => {
  const hosts = materialize({
    ...{ load: [9, 1, 1, 1], primaries: own([0, 1, 2, 3]), ranks: 4, node: [0, 0, 1, 1] },
    ...{ free: [0, 1, 1, 0], top: 1 },
  });
  assert.deepEqual(hosts[0], [0, 2, 1]);
});
