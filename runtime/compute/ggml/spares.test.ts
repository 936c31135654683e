import assert from "node:assert/strict";
import { test } from "node:test";
import { Spares } from "./spares.ts";

test("the smallest spare buffer that is large enough is taken, and each of them once", () => {
  const spares = new Spares<{ readonly bytes: number }>();
  assert.equal(spares.take(1), undefined);
  for (const bytes of [64, 16, 32]) spares.keep({ bytes });
  assert.equal(spares.take(17)?.bytes, 32);
  assert.equal(spares.take(17)?.bytes, 64);
  assert.equal(spares.take(17), undefined);
  assert.equal(spares.take(16)?.bytes, 16);
});
