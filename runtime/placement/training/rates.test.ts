// Rates that planners reckon with: a slow link and a busy processor both cost, and only waiting for the link is hidden.
import assert from "node:assert/strict";
import { test } from "node:test";
import { trainingPlanner } from "./planners/index.ts";
import { primariesOnly } from "./planners/planner.ts";
import { type Measured, ratesOf } from "./rates.ts";

const measured: Measured = { row: 1e-5, dense: 0.05, expertReplica: 0.025, busy: 0.005 };

test("rows count by the mean and expert replicas by the slowest rank, there and back; what hides is the link alone", () => {
  const slow = { ...measured, row: 3e-5, expertReplica: 0.045 };
  const rates = ratesOf([measured, slow]);
  assert.ok(rates !== undefined);
  assert.equal(rates.overlap, 1); // 0.05 s of computing hide one expert replica of 0.04 s
  const { row, expertReplica, busy } = rates.seconds;
  assert.ok(Math.abs(row - 2e-5) < 1e-12 && Math.abs(expertReplica - 0.08) < 1e-12 && busy === 0.01);
  assert.equal(ratesOf([{ ...measured, row: 0 }]), undefined, "nothing was computed yet");
  const local = ratesOf([{ ...measured, expertReplica: 0.004 }]);
  assert.deepEqual([local?.overlap, local?.seconds.expertReplica, local?.seconds.busy], [4096, 0, 0.008]);
});

test("by measured rates auto expert replicas on a fast link and not on one of 10 MB/s", () => {
  const bytes = 1.57e6;
  const hostsAt = (bytesPerSecond: number) => {
    const rates = ratesOf([{ row: 60e-6, dense: 0.02, expertReplica: 0.003 + bytes / bytesPerSecond, busy: 0.003 }]);
    assert.ok(rates !== undefined);
    const problem = {
      load: Float64Array.of(4000, 800, 700, 600),
      primaries: [0, 1, 2, 3],
      ranks: 4,
      node: [0, 1, 2, 3],
      speed: new Float64Array(4).fill(1),
    };
    const whole = { ...problem, free: [2, 2, 2, 2], ...rates };
    return { hosts: trainingPlanner("auto").hosts(whole), none: primariesOnly(whole) };
  };
  const [fast, slow] = [hostsAt(1e9), hostsAt(1e7)];
  assert.notDeepEqual(fast.hosts, fast.none);
  assert.deepEqual(slow.hosts, slow.none);
});
