import assert from "node:assert/strict";
import { test } from "node:test";
import { exitCode, type Times, timeRows } from "./aims.ts";
import { summaryLines } from "./view.ts";

const slow = (times: Times): Record<string, boolean> => Object.fromEntries(timeRows(times).map(({ step, slow }) => [step, slow ?? false]));
const quick = { totalSeconds: 200, readySeconds: 3, balancedSeconds: 40, machine: "warm" } as const;
const ready = "Apply to Ready";
const even = "Skewed load to balanced";

const cases: Record<string, [Times, Record<string, boolean>]> = {
  "warm, at every aim": [
    { machine: "warm", totalSeconds: 300, readySeconds: 30, balancedSeconds: 90 },
    { [ready]: false, [even]: false, Total: false },
  ],
  "warm, Ready late": [
    { ...quick, readySeconds: 30.1 },
    { [ready]: true, [even]: false, Total: false },
  ],
  "warm, balanced late": [
    { ...quick, balancedSeconds: 90.1 },
    { [ready]: false, [even]: true, Total: false },
  ],
  "warm, long in all": [
    { ...quick, totalSeconds: 300.1 },
    { [ready]: false, [even]: false, Total: true },
  ],
  "warm, never Ready": [{ machine: "warm", totalSeconds: 10, readySeconds: undefined, balancedSeconds: undefined }, { Total: false }],
  "cold, Ready has no aim": [
    { machine: "cold", totalSeconds: 900, readySeconds: 90, balancedSeconds: 20 },
    { [even]: false, Total: false },
  ],
  "cold, long in all": [
    { ...quick, machine: "cold", totalSeconds: 901 },
    { [even]: false, Total: true },
  ],
  "on somebody's own cluster nothing has an aim": [
    { machine: "unknown", totalSeconds: 9999, readySeconds: 999, balancedSeconds: 999 },
    { Total: false },
  ],
};
for (const [name, [times, want]] of Object.entries(cases)) test(`times of the demo: ${name}`, () => assert.deepEqual(slow(times), want));

test("a slow run in which every step held ends with 0, and says where it was slow", () => {
  const steps = [{ step: "Ask it", ok: true, seconds: 200, note: "3 tokens" }];
  const results = [...steps, ...timeRows({ machine: "warm", totalSeconds: 1020, readySeconds: 64, balancedSeconds: 80 })];
  assert.equal(exitCode(results), 0);
  const lines = summaryLines(results);
  assert.match(lines.at(-1) ?? "", /Every step held\..* 2 times were longer than aimed, which fails nothing\./);
  assert.match(lines.find((line) => line.includes("Total")) ?? "", /1020\.0 s {2}aim: 5 min on a warm machine {2}.*slower than aimed/);
  assert.match(lines.find((line) => line.includes(ready)) ?? "", /64\.0 s {2}aim: 30 s {2}.*slower than aimed/);
  assert.doesNotMatch(lines.find((line) => line.includes(even)) ?? "", /slower/);
});

test("a step that did not hold is the exit code, however quick the run was", () => {
  const results = [{ step: "Ask it", ok: false, seconds: 1, note: "no answer" }, ...timeRows(quick)];
  assert.equal(exitCode(results), 1);
  assert.match(summaryLines(results).at(-1) ?? "", /1 did not hold\./);
});
