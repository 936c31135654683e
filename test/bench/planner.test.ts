import assert from "node:assert/strict";
import { test } from "node:test";
import { plannerBench } from "./planner.ts";

test("a row that there is not is refused before any row is run, with those that there are", async () => {
  await assert.rejects(plannerBench(["9a", "nonsense"]), { code: "InvalidOption", message: /no row nonsense; there are 1, .*10s, 11,/ });
});
