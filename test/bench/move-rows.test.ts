import assert from "node:assert/strict";
import { test } from "node:test";
import { failoverRow, type Loss } from "./failover.ts";
import { benches } from "./index.ts";
import { disturbedRow } from "./ranks/rows.ts";
import { gapsBeside, p99 } from "./speed-rows.ts";

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
