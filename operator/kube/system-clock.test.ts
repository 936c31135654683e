import assert from "node:assert/strict";
import { test } from "node:test";
import { systemClock } from "./workqueue.ts";

test("whoever sets the machine's clock moves no time that the operator waits for, and gRPC has deadlines by that clock", (t) => {
  const [wall, steady] = [Date.now(), systemClock.now()];
  assert.ok(Math.abs(steady - wall) < 2_000, "times that are written down are those of the clock on the wall");
  t.mock.timers.enable({ apis: ["Date"], now: wall });
  for (const aheadMs of [30 * 60_000, -30 * 60_000]) {
    t.mock.timers.setTime(wall + aheadMs);
    assert.ok(Math.abs(systemClock.now() - steady) < 5_000, `${aheadMs} ms ahead`);
    assert.equal(systemClock.deadlineIn?.(1_000), wall + aheadMs + 1_000);
  }
});
