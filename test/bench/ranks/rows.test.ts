import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gapsOf } from "../interference.ts";
import { togetherRate } from "../speed-rows.ts";
import { ownGroup, quotaFiles, quotaGroup, removeLeftGroups } from "./quota.ts";
import { disturbedRow, rankRow } from "./rows.ts";
import { layoutsOf, layoutsOfOwn, sharesOf } from "./shares.ts";

const spent = {
  bytesPerToken: 6_912,
  rowsAtOnce: 2.345,
  cpuMsPerToken: 12.345,
  denseMsPerToken: 2,
  expertsMsPerToken: 4,
  awaitedMsPerToken: 7,
};
const figures = (...rates: number[]) => rates.map((tokensPerSecond) => Object.assign({ tokensPerSecond }, spent));

test("a row of ranks has the ratio of the rounds to the one rank, and a verdict where there is a limit", () => {
  const row = { ranks: "3, 0.67 CPUs each", name: "8 streams", streams: 8, least: 0.6 };
  assert.deepEqual(rankRow({ ...row, figures: figures(80, 60, 70), beside: figures(100, 120, 100) }), {
    ...{ ranks: "3, 0.67 CPUs each", case: "8 streams", tokensPerSecond: 70, perStream: 8.8, ratio: 0.7, least: 0.6, ok: true },
    ...{ kilobytesPerToken: 6.91, rowsAtOnce: 2.35, cpuMsPerToken: 12.35, denseMsPerToken: 2, expertsMsPerToken: 4, awaitedMsPerToken: 7 },
  });
  const one = rankRow({ ...row, figures: figures(100), beside: [] });
  assert.deepEqual([one.ratio, one.least, one.ok], ["-", "-", "-"]);
  assert.equal(rankRow({ ...row, least: undefined, figures: figures(50), beside: figures(100) }).ok, "-");
});

test("a disturbed time is held against the quiet one of its round", () => {
  const rounds = [
    { quiet: 10, disturbed: 14 },
    { quiet: 20, disturbed: 50 },
    { quiet: 10, disturbed: 12 },
  ];
  assert.deepEqual(disturbedRow("p50", 1.5, rounds), { case: "p50", quietMs: 10, disturbedMs: 14, ratio: 1.4, most: 1.5, ok: true });
  assert.equal(disturbedRow("p50", 1.3, rounds).ok, false);
  assert.deepEqual(gapsOf([1, 4, 9]), [3, 5]);
});

test("tokens of a batch count while all of it decode, or all the time where they never do", () => {
  assert.equal(
    togetherRate([
      [0, 10, 20, 30],
      [10, 20, 30, 40],
    ]),
    200,
  );
  assert.equal(
    togetherRate([
      [0, 10],
      [20, 30],
    ]),
    100,
  );
});

test("layouts: one rank with all CPUs, equal shares, three without quotas; without quotas none has one", () => {
  assert.deepEqual(
    layoutsOf([1, 2, 3], 2, true).map(({ name, cpus }) => [name, cpus]),
    [
      ["1, 2 CPUs each", 2],
      ["2, 1.00 CPUs each", 1],
      ["3, 0.67 CPUs each", 2 / 3],
      ["3, no quota", undefined],
    ],
  );
  assert.deepEqual(
    layoutsOf([1, 2], 2, false).map(({ cpus }) => cpus),
    [undefined, undefined],
  );
  assert.deepEqual(sharesOf({ ranks: "3,1,3", cpus: "4" }, 2), { counts: [3, 1], cpus: 4, quota: undefined });
  assert.deepEqual(sharesOf({}, 2), { counts: [1, 2, 3, 4], cpus: 2, quota: undefined });
  assert.equal(sharesOf({ ranks: "3", quota: "0.5" }, 2).quota, 0.5);
  assert.throws(() => sharesOf({ ranks: "3", quota: "1" }, 2), { code: "InvalidOption", message: /3 ranks of 1 are above 2 CPUs/ });
  assert.throws(() => sharesOf({ quota: "half" }, 2), { code: "InvalidOption", message: /--quota: "half"/ });
  assert.deepEqual(
    layoutsOfOwn([3], 0.5).map(({ ranks, cpus }) => [ranks, cpus]),
    [
      [1, 0.5],
      [3, 0.5],
    ],
  );
  assert.throws(() => sharesOf({ ranks: "9" }, 2), { code: "InvalidOption", message: /at most 8/ });
  assert.throws(() => sharesOf({ ranks: "1,x" }, 2), { code: "InvalidOption", message: /--ranks: "x"/ });
});

test("a quota is written as the version of cgroups wants it, and refused with the reason where it cannot be", () => {
  assert.deepEqual(quotaFiles(0.5, 2), { "cpu.max": "5000 10000" });
  assert.deepEqual(quotaFiles(1.5, 1), { "cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "15000" });
  assert.deepEqual(quotaFiles(0.01, 2), { "cpu.max": "1000 10000" });
  assert.equal(ownGroup("3:cpuset:/a\n2:cpu,cpuacct:/b/c\n1:name=systemd:/d\n"), "/b/c");
  assert.equal(ownGroup("0::/pods\n"), "/");
  const root = mkdtempSync(join(tmpdir(), "enodia-quota-"));
  try {
    assert.match((quotaGroup("a", 1, root) as { reason: string }).reason, /no cgroup with a cpu controller/);
    mkdirSync(join(root, "cpu"));
    writeFileSync(join(root, "cpu", "cgroup.procs"), "");
    const group = quotaGroup("a", 1, root);
    assert.ok(!("reason" in group));
    group.join(17);
    assert.equal(readFileSync(join(root, "cpu", "enodia-bench-a", "cgroup.procs"), "utf8"), "17");
    mkdirSync(join(root, "cpu", "enodia-bench-left"));
    removeLeftGroups(root);
    assert.deepEqual([existsSync(join(root, "cpu", "enodia-bench-left")), existsSync(join(root, "cpu", "enodia-bench-a"))], [false, true]);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
