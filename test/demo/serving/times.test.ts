// Times of the serving demo that are slower than aimed are told on machines that have an aim, and on no others.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Times, timeRows } from "./times.ts";

const slow = (times: Times): Record<string, boolean> => Object.fromEntries(timeRows(times).map(({ step, slow }) => [step, slow ?? false]));
const ready = "Apply to Ready";
const even = "Skewed load to balanced";

const cases: Record<string, [Times, Record<string, boolean>]> = {
  "warm, at every aim": [
    { machine: "warm", readySeconds: 30, balancedSeconds: 90 },
    { [ready]: false, [even]: false },
  ],
  "warm, Ready late": [
    { machine: "warm", readySeconds: 30.1, balancedSeconds: 40 },
    { [ready]: true, [even]: false },
  ],
  "warm, balanced late": [
    { machine: "warm", readySeconds: 3, balancedSeconds: 90.1 },
    { [ready]: false, [even]: true },
  ],
  "warm, never Ready": [{ machine: "warm" }, {}],
  "cold, Ready has no aim": [{ machine: "cold", readySeconds: 90, balancedSeconds: 20 }, { [even]: false }],
  "on somebody's own cluster nothing has an aim": [{ machine: "unknown", readySeconds: 999, balancedSeconds: 999 }, {}],
};
for (const [name, [times, want]] of Object.entries(cases)) test(`times of the demo: ${name}`, () => assert.deepEqual(slow(times), want));
