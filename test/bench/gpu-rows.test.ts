import assert from "node:assert/strict";
import { test } from "node:test";
import { failoverRow, type Loss } from "./failover.ts";
import { type Both, gpuRows, gpuTable, type Measured } from "./gpu-rows.ts";
import { benches } from "./index.ts";
import { disturbedRow } from "./ranks/rows.ts";
import { gapsBeside, p99 } from "./speed-rows.ts";

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

test("gaps that touch a time of moving are apart from the quiet ones", () => {
  const periods = [
    { from: 25, to: 41 },
    { from: 60, to: 61 },
  ];
  assert.deepEqual(gapsBeside([0, 10, 20, 30, 40, 55, 60, 70], periods), { quiet: [10, 10, 5], disturbed: [10, 10, 15, 10] });
  assert.deepEqual(gapsBeside([], periods), { quiet: [], disturbed: [] });
  assert.deepEqual([p99(Array.from({ length: 200 }, (_, i) => 199 - i)), p99([7]), p99([])], [198, 7, 0]);
});

test("a figure without a limit has no verdict", () => {
  const { ratio, most, ok } = disturbedRow("p50", undefined, [{ quiet: 10, disturbed: 12 }]);
  assert.deepEqual([ratio, most, ok], [1.2, "-", "-"]);
});

const held: Loss = { pause: 1_130, detection: 30, failover: 5, prefill: 1_095, quietPrefill: 1_000, sameText: true };

test("a pause is held, less its detection, against the quiet prefill of its round; one other text is a miss", () => {
  const slow = Object.assign({}, held, { pause: 2_500, quietPrefill: 2_000 });
  assert.deepEqual(failoverRow("killed after 500 tokens", [held, slow, held]), {
    ...{ case: "killed after 500 tokens", pauseMs: 1_130, detectionMs: 30, failoverMs: 5, prefillMs: 1_095, quietPrefillMs: 1_000 },
    ...{ ratio: 1.1, most: 1.2, sameText: "3 of 3", ok: true },
  });
  assert.equal(failoverRow("x", [slow]).ok, false);
  const { sameText, ok } = failoverRow("x", [held, Object.assign({}, held, { sameText: false })]);
  assert.deepEqual([sameText, ok], ["1 of 2", false]);
});

for (const name of ["load", "failover"]) {
  test(`${name}: a number of tokens that is none is refused before a worker is started`, async () => {
    const run = await benches[name]?.load();
    await assert.rejects(async () => run?.(["--store", "/nowhere", "--codec", "f32", "--tokens", "many"]), {
      code: "InvalidOption",
      message: /--tokens: "many" is no count/,
    });
  });
}
