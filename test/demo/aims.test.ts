import assert from "node:assert/strict";
import { test } from "node:test";
import { limits, type Times } from "./limits.ts";

const held = (times: Times): Record<string, boolean> => Object.fromEntries(limits(times).map(({ step, ok }) => [step, ok]));

const cases: Record<string, [Times, Record<string, boolean>]> = {
  "warm, at both limits": [
    { machine: "warm", totalSeconds: 300, readySeconds: 30 },
    { "Apply to Ready": true, Total: true },
  ],
  "warm, Ready too late": [
    { machine: "warm", totalSeconds: 300, readySeconds: 30.1 },
    { "Apply to Ready": false, Total: true },
  ],
  "warm, too long in all": [
    { machine: "warm", totalSeconds: 300.1, readySeconds: 3 },
    { "Apply to Ready": true, Total: false },
  ],
  "warm, never Ready": [{ machine: "warm", totalSeconds: 10, readySeconds: undefined }, { Total: true }],
  "cold, Ready is not judged": [{ machine: "cold", totalSeconds: 900, readySeconds: 90 }, { Total: true }],
  "cold, too long in all": [{ machine: "cold", totalSeconds: 901, readySeconds: 3 }, { Total: false }],
  "on somebody's own cluster nothing is judged": [{ machine: "unknown", totalSeconds: 9999, readySeconds: 999 }, { Total: true }],
};
for (const [name, [times, want]] of Object.entries(cases))
  test(`time limits of the demo: ${name}`, () => assert.deepEqual(held(times), want));
