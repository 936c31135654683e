import assert from "node:assert/strict";
import { test } from "node:test";
import { leftMs } from "./call-deadline.ts";

const by = (deadline: Date | number) => ({ getDeadline: () => deadline });
const close = (left: number | undefined, want: number) => assert.ok(left !== undefined && Math.abs(left - want) < 1_000, `${left}`);

test("the time that gRPC carries counts, less what the caller lets it be later, whatever point in time the caller names", () => {
  const halfAnHour = 30 * 60_000;
  for (const named of [0, Date.now() + halfAnHour, Date.now() - halfAnHour]) {
    close(leftMs(by(new Date(Date.now() + 60_000)), named, 2_000), 58_000);
    close(leftMs(by(Date.now() + 60_000), named, 10_000), 50_000);
  }
  assert.equal(leftMs(by(Date.now()), 0, 2_000), 0);
});

test("of a call without a deadline of gRPC's the named point in time counts, and without one there is none", () => {
  close(leftMs(by(Number.POSITIVE_INFINITY), Date.now() + 5_000, 2_000), 5_000);
  assert.equal(leftMs(by(Number.POSITIVE_INFINITY), Date.now() - 5_000, 2_000), 0);
  assert.equal(leftMs(by(Number.POSITIVE_INFINITY), 0, 2_000), undefined);
});
