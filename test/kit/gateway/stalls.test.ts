// The table of stalls: what grew between two scrapes, whoever was replaced meanwhile.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "../kube/scrape.ts";
import { stallRow, stallTable } from "./stalls.ts";

const histogram = (metric: string, part: string, buckets: Record<string, number>, sum: number): string =>
  [
    ...Object.entries(buckets).map(([le, count]) => `${metric}_bucket{part="${part}",le="${le}"} ${count}`),
    `${metric}_sum{part="${part}"} ${sum}`,
    `${metric}_count{part="${part}"} ${buckets["+Inf"]}`,
  ].join("\n");

test("a row has what grew since, also where a process started anew", () => {
  const gateway = "enodia_gateway_stall_seconds";
  const frames = "enodia_dispatch_stall_seconds";
  const before = new Map([
    ["gw", parse(histogram(gateway, "detection", { "1": 5, "2": 5, "+Inf": 5 }, 2))],
    ["w1", parse(histogram(frames, "repair", { "1": 9, "2": 9, "+Inf": 9 }, 3))],
  ]);
  const after = new Map([
    ["gw", parse(histogram(gateway, "detection", { "1": 5, "2": 7, "+Inf": 7 }, 5))],
    ["w1", parse(histogram(frames, "repair", { "1": 1, "2": 1, "+Inf": 1 }, 0.5))],
  ]);
  const row = stallRow("kill", 1_834, before, after);
  assert.deepEqual(row.parts.get("detection"), { count: 2, meanSeconds: 1.5, mostSeconds: 2 });
  assert.deepEqual(row.parts.get("frames: repair"), { count: 1, meanSeconds: 0.5, mostSeconds: 1 });
  assert.deepEqual(row.parts.get("replay"), { count: 0, meanSeconds: 0, mostSeconds: 0 });
  const [head, line] = stallTable([row]).split("\n");
  assert.match(head ?? "", /^# fault +longest stall +detection +failover +replay +frames: detection +frames: repair/);
  assert.match(line ?? "", /^# kill +1\.83 +1\.50 <=2 \(2\) +- +- +- +0\.50 <=1 \(1\)/);
});
