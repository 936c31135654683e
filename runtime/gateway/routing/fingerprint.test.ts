import assert from "node:assert/strict";
import { test } from "node:test";
import { fingerprintOf } from "./fingerprint.ts";

const ranks = (...classes: string[]) => classes.map((numerics, rank) => ({ rank, numerics }));

test("a fingerprint is of the model and of the classes of its ranks, and of nothing else", () => {
  const one = fingerprintOf("sha256:a", ranks("cpu f16", "cpu f16"));
  assert.match(one ?? "", /^fp_[0-9a-f]{12}$/);
  assert.equal(fingerprintOf("sha256:a", ranks("cpu f16")), one, "however many ranks");
  assert.equal(fingerprintOf("sha256:a", ranks("x", "y")), fingerprintOf("sha256:a", ranks("y", "x", "y")));
  for (const other of [
    fingerprintOf("sha256:b", ranks("cpu f16")),
    fingerprintOf("sha256:a", ranks("cpu q8_0")),
    fingerprintOf("sha256:a", ranks("x", "y")),
  ])
    assert.notEqual(other, one);
  for (const unknown of [fingerprintOf("", ranks("x")), fingerprintOf("sha256:a", []), fingerprintOf("sha256:a", [{}])])
    assert.equal(unknown, undefined);
});
