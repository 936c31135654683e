import assert from "node:assert/strict";
import { test } from "node:test";
import { approached } from "../../test/bench/planner-fresh.ts";
import { generateTrace, presets } from "./offline/traces-generate.ts";

const cluster = { ranks: 16, slots: 9 };
/** Behind by this much for so many windows in a row, a plan from nothing would be worth a thought. */
const points = 0.03;
const windows = 3;

test("within one budget no plan from nothing gets three points ahead of incremental ones for three windows", async () => {
  for (const [seed, budget] of [
    [1, 12],
    [2, 64],
  ] as const) {
    const trace = generateTrace("t", { ...presets.qwen3_48x128, layers: 8, windows: 10 }, seed);
    const ours = await approached("incremental", trace, cluster, budget);
    for (const name of ["fresh each window", "fresh once"] as const) {
      const other = await approached(name, trace, cluster, budget);
      const ahead = other.balance.map((balance, t) => balance > (ours.balance[t] ?? 0) + points);
      const figures = `${name}, ${budget} expert replicas a plan: ${other.balance.map((x) => x.toFixed(3))} against ${ours.balance.map((x) => x.toFixed(3))}`;
      assert.ok(!ahead.some((_, t) => t + windows <= ahead.length && ahead.slice(t, t + windows).every((is) => is)), figures);
      const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
      assert.ok(mean(ours.balance) >= mean(other.balance), figures);
    }
  }
});
