// Copies are told by the experts that most ranks have, in few words however large a world is, and nothing where there are none.

import assert from "node:assert/strict";
import { test } from "node:test";
import { copiesMax, copiesSchema } from "../../../crds/training-report.ts";
import { copiesOf } from "./run-step.ts";

test("layers with copies are told with home and hosts, in the order of experts", () => {
  const reported = copiesOf([[[0], [1], [2]], [], [[0, 1], [1], [2, 1, 0], [2]]]);
  const most = [
    { expert: 0, ranks: [0, 1] },
    { expert: 2, ranks: [2, 1, 0] },
  ];
  assert.deepEqual(reported, [{ layer: 2, experts: 4, copied: 2, most }]);
  assert.deepEqual(copiesOf([[[0], [1]]]), []);
});

test("a large world is told in few words, the experts of most ranks among them", () => {
  const hosts = Array.from({ length: 100 }, () =>
    Array.from({ length: 256 }, (_, expert) => Array.from({ length: 2 + (expert % 100) }, (_, rank) => rank)),
  );
  const reported = copiesSchema.parse(copiesOf(hosts));
  assert.deepEqual([reported.length, reported[0]?.copied, reported[0]?.most.length], [copiesMax.layers, 256, copiesMax.experts]);
  // Two experts have 101 ranks, two 100, and so on.
  assert.deepEqual(
    reported[0]?.most.map(({ expert }) => expert),
    [96, 97, 98, 99, 196, 197, 198, 199],
  );
  assert.ok(JSON.stringify(reported).length < 64 * 1024);
});
