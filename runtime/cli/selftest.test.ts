// The self-test of a device: a right one passes, what it refuses is named, and one number that is off fails it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fmaGigaflops, fmaLoop, machineSpeeds, passed, selfTest } from "./selftest.ts";

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

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

test("the loops are what an assembler makes of them", () => {
  assert.match(hex(fmaLoop(16)), /^c4e17857c0.*c4411057ed62d21548b8c4.*62521548b8dc48ffcf75b3c5f877c3$/);
  assert.match(hex(fmaLoop(8)), /^c4e17857c0.*c4411057edc4c215b8c4.*c44215b8dc48ffcf75bfc5f877c3$/);
});

test("a thread multiplies and adds at a rate that a processor can have", { skip: process.arch !== "x64" }, async () => {
  const rate = await fmaGigaflops();
  assert.ok(rate !== undefined && rate > 0.1 && rate < 2_000, `${rate}`);
});
