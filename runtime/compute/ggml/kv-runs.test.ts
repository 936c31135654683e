// Streams of unlike lengths: where products compute what a mask hides, a long one costs its neighbours nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { CpuDevice } from "./device.ts";
import { PagedKv } from "./kv-paged.ts";

const device = new CpuDevice({ threads: 1 });
const shape = { layers: 1, slots: 64, kvHeads: 1, context: 8192, headDim: 32, valueDim: 32, poolBlocks: 64 };
const runsFor = (past: readonly number[], type: "f32" | "f16") => {
  const kv = new PagedKv(device, { ...shape, type }, device.ggml.pageBytes);
  const runs = kv.runsOf({ firstSlot: 0, batch: past.length, tokens: 1, past: Int32Array.from(past) });
  void kv.dispose();
  return runs;
};
const read = (past: readonly number[]): number => runsFor(past, "f32").reduce((sum, { batch, length }) => sum + batch * length, 0);

test("a long stream beside short ones makes these no longer", { skip: process.arch !== "x64" }, () => {
  const short = new Array<number>(15).fill(16);
  assert.equal(read([8_000, ...short]), 8_064 + 15 * 64);
  assert.equal(runsFor([8_000, ...short], "f16").length, 1, "the operation skips what is masked");
});

test("any streams are few operations, in their order", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(8_191), { minLength: 1, maxLength: 64 }), (past) => {
      const runs = runsFor(past, "f32");
      assert.ok(runs.length <= 8);
      let at = 0;
      for (const run of runs) {
        assert.equal(run.at, at);
        assert.ok(past.slice(at, at + run.batch).every((from) => from < run.length));
        at += run.batch;
      }
      assert.equal(at, past.length);
    }),
    { numRuns: 50 },
  );
});
