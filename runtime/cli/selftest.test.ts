// The self-test of a device: a right one passes, what it refuses is named, and one number that is off fails it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { machineSpeeds, passed, selfTest } from "./selftest.ts";

test("cpu passes with every op, and its products are measured only when asked", async () => {
  const result = await selfTest({ backend: "cpu", threads: 1, speed: false });
  assert.ok(passed(result));
  assert.match(result.device, /^cpu: /);
  assert.deepEqual(
    result.ops.filter(({ refused }) => refused !== undefined),
    [],
  );
  assert.deepEqual(result.products, []);
});

test("what a backend refuses fails nothing; an error beyond its bound, no number, or nothing computed at all does", async () => {
  const result = await selfTest({ backend: "reference", threads: 1, speed: false });
  const op = result.ops[0]!;
  const refused = { ...op, error: undefined, refused: "not computed" };
  assert.ok(passed({ ...result, ops: [op, refused] }));
  assert.ok(!passed({ ...result, ops: [refused] }));
  for (const error of [1, Number.POSITIVE_INFINITY]) assert.ok(!passed({ ...result, ops: [{ ...op, error, bound: 1e-5 }] }));
});

test("speeds stand beside a copy of memory and a loop of multiply-adds", { skip: process.arch !== "x64" }, async () => {
  const limits = await machineSpeeds();
  assert.ok(limits.copyGigabytesPerSecond > 0 && (limits.fmaGigaflops ?? 0) > 0);
});
