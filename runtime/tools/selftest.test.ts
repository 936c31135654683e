// The self-test of a device: a right one passes, what it refuses is named, and one number that is off fails it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { machineSpeeds, passed, selfTest } from "./selftest.ts";

test("ggml passes with every op, and its products are measured only when asked", async () => {
  const result = await selfTest({ backend: "ggml", threads: 1, speed: false });
  assert.ok(passed(result));
  assert.match(result.device, /^ggml: /);
  assert.deepEqual(
    result.ops.filter(({ refused }) => refused !== undefined),
    [],
  );
  assert.deepEqual(result.products, []);
});

test("what a backend refuses is named and fails nothing; an error beyond its bound, or no number, does", async () => {
  const result = await selfTest({ backend: "cpu", threads: 1, speed: false });
  assert.ok(passed(result));
  const refused = result.ops.find(({ op }) => op === "addRow");
  assert.equal(refused?.refused, "not computed");
  for (const error of [1, Number.POSITIVE_INFINITY]) {
    assert.ok(!passed({ ...result, ops: [{ ...result.ops[0]!, error, bound: 1e-5 }] }));
  }
});

test("speeds stand beside a copy of memory and a loop of multiply-adds", { skip: process.arch !== "x64" }, async () => {
  const limits = await machineSpeeds();
  assert.ok(limits.copyGigabytesPerSecond > 0 && (limits.fmaGigaflops ?? 0) > 0);
});
