import assert from "node:assert/strict";
import { test } from "node:test";
import type { Member } from "../ports.ts";
import { mayWait, spacingMs } from "./push-times.ts";

const member = (rank: number, more: Partial<Member> = {}): Member => ({
  ...{ rank, podName: `p${rank}`, podUid: `w${rank}`, bootId: "b", address: `10.0.0.${rank}:9440`, state: "active" as const },
  ...more,
});
const before = [member(0), member(1, { state: "joining" })];

test("who has come, and who serves now, may wait", () => {
  assert.ok(mayWait([], [member(0)]));
  assert.ok(mayWait(before, [member(0), member(1), member(2, { state: "joining" })]));
});

test("who is gone, leaves, or is another process is told at once", () => {
  assert.ok(!mayWait(before, [member(0)]));
  for (const changed of [
    { state: "lost" },
    { state: "draining" },
    { state: "joining" },
    { bootId: "c" },
    { podUid: "w9" },
    { address: "10.0.0.9:9440" },
  ] as const)
    assert.ok(!mayWait(before, [member(0, changed), before[1]!]), JSON.stringify(changed));
});

test("small worlds wait for nothing, and the bytes a second of large ones are bounded", () => {
  assert.equal(spacingMs(7), 0);
  assert.ok(spacingMs(64) < 100, "less than two looks are apart");
  assert.ok(spacingMs(256) > 500 && spacingMs(256) < 1_500);
  assert.equal(spacingMs(4_096), 2_000);
});
