import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadState } from "./load-state.ts";

test("the age of telemetry grows for a rank that is expected and never heard", () => {
  const sizes = new Float64Array(1).fill(1);
  const load = new LoadState({ layers: 1, experts: 1, residentBytes: sizes, storedBytes: sizes }, "uid", 1_000);
  assert.equal(load.ageMs([], 61_000), 0, "nobody is expected");
  assert.equal(load.ageMs([{ rank: 0, bootId: "b", clockAheadMs: 0, speed: 1 }], 61_000), 60_000);
});
