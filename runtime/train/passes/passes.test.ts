// Arrays that nobody reads wait for their collection up to the bound, and no longer.

import assert from "node:assert/strict";
import { test } from "node:test";
import { getHeapStatistics } from "node:v8";
import { Garbage } from "./passes.ts";

const megabyte = 2 ** 20;

test("arrays of a step are collected once there are more than the bound, and not before", () => {
  const garbage = new Garbage(100 * megabyte);
  const begun = getHeapStatistics().external_memory;
  let most = 0;
  for (let i = 0; i < 600; i++) {
    new Float32Array(megabyte / 4).fill(1);
    garbage.look();
    most = Math.max(most, getHeapStatistics().external_memory - begun);
  }
  assert.ok(most > 64 * megabyte, `${most} bytes waited`);
  assert.ok(most < 200 * megabyte, `${most} bytes waited`);
});
