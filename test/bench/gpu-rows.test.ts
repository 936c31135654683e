import assert from "node:assert/strict";
import { test } from "node:test";
import { type Both, gpuRows, gpuTable, type Measured } from "./gpu-rows.ts";

const both = (one: number, two: number): Both => [
  { prefillMs: 10 * one, decodeMs: one },
  { prefillMs: 10 * two, decodeMs: two },
];
const measured: Measured = {
  ...{ layers: 11, prompt: 100, ours: both(2, 3), llama: both(3, 4.5), tokenBytes: 6e9, tokenValues: 1e6 },
  limits: { copyGigabytesPerSecond: 1_000, productGigaflops: 10 },
};

test("a whole model takes the first layer and all others by the difference, on both sides", () => {
  const [decode, prefill, layer] = gpuRows(measured);
  assert.deepEqual([decode?.milliseconds, decode?.llamaMilliseconds, decode?.timesLlama], [12, 18, 1.5]);
  assert.deepEqual([prefill?.milliseconds, prefill?.tokensPerSecond, prefill?.timesLlama], [120, 833.3, 1.5]);
  assert.deepEqual([layer?.milliseconds, layer?.llamaMilliseconds], [1, 1.5]);
});

test("shares are of a copy's bytes and of a product's operations", () => {
  const [decode, prefill] = gpuRows(measured);
  assert.equal(decode?.ofLimit, "50% of a copy"); // 6 GB in 12 ms are 500 GB/s
  assert.equal(prefill?.ofLimit, "17% of a product"); // 2e8 operations in 120 ms are 1.67 GFLOP/s
  const untried = { copyGigabytesPerSecond: 1_000, productGigaflops: undefined };
  assert.equal(gpuRows(Object.assign({}, measured, { limits: untried }))[1]?.ofLimit, "");
});

test("without llama.cpp rows have no ratio and say why; a layer lost in noise has none either", () => {
  for (const row of gpuRows(Object.assign({}, measured, { llama: "it is not installed" })))
    assert.deepEqual([row.llamaMilliseconds, row.timesLlama, row.withoutLlama], [null, null, "it is not installed"]);
  const noise = gpuRows(Object.assign({}, measured, { llama: both(3, 2) }));
  assert.deepEqual([noise[0]?.llamaMilliseconds, noise[2]?.timesLlama], [3, null]);
});

test("the table is dated, and has the reason where the peer's figures would be", () => {
  const table = gpuTable("2026-01-02", "tiny", "a device", gpuRows(measured));
  assert.match(table, /^\n## 2026-01-02: tiny\na device\n/);
  assert.match(table, /\| 12 \| 83\.3 \| 50% of a copy \| 18 \| 1\.5 \|/);
  assert.match(gpuTable("2026-01-02", "tiny", "a device", gpuRows(Object.assign({}, measured, { llama: "no" }))), /\| no \| {2}\|/);
});
