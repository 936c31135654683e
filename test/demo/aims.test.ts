// The total beside its aim, and that a slow run in which every step held ends with 0.
import assert from "node:assert/strict";
import { test } from "node:test";
import { aimed, exitCode, type Machine, totalRow } from "./aims.ts";
import { summaryLines } from "./view.ts";

const totals: Record<string, [seconds: number, machine: Machine, slow: boolean | undefined]> = {
  "warm, at the aim": [300, "warm", false],
  "warm, long": [300.1, "warm", true],
  "cold, at the aim": [900, "cold", false],
  "cold, long": [901, "cold", true],
  "somebody's own cluster": [9999, "unknown", undefined],
};
for (const [name, [seconds, machine, slow]] of Object.entries(totals))
  test(`the total: ${name}`, () => assert.equal(totalRow(seconds, machine).slow, slow));

test("a slow run in which every step held ends with 0, and says where it was slow", () => {
  const steps = [{ step: "Ask it", ok: true, seconds: 200, note: "3 tokens" }];
  const results = [...steps, aimed("Apply to Ready", 64, 30), aimed("Skewed load to balanced", 80, 90), totalRow(1020, "warm")];
  assert.equal(exitCode(results), 0);
  const lines = summaryLines(results);
  assert.match(lines.at(-1) ?? "", /Every step held\..* 2 times were longer than aimed, which fails nothing\./);
  assert.match(lines.find((line) => line.includes("Total")) ?? "", /1020\.0 s {2}aim: 5 min on a warm machine {2}.*slower than aimed/);
  assert.match(lines.find((line) => line.includes("Ready")) ?? "", /64\.0 s {2}aim: 30 s {2}.*slower than aimed/);
  assert.doesNotMatch(lines.find((line) => line.includes("Skewed")) ?? "", /slower/);
});

test("a step that did not hold is the exit code, however quick the run was", () => {
  const results = [{ step: "Ask it", ok: false, seconds: 1, note: "no answer" }, totalRow(200, "warm")];
  assert.equal(exitCode(results), 1);
  assert.match(summaryLines(results).at(-1) ?? "", /1 did not hold\./);
});
