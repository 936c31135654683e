// The means that the autoscaler goes by, of single looks and in a simulated cluster with the production wire between.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "../../../test/sim/cluster.ts";
import type { PodStatus } from "../ports.ts";
import { SignalWindows } from "./signals.ts";

type Views = Parameters<SignalWindows["look"]>[0];

const rank = (status: Partial<PodStatus>, more: { readonly usable?: boolean; readonly bootId?: string } = {}): Views[number] =>
  ({
    pod: { uid: "pod" },
    usable: more.usable ?? true,
    report: { description: { bootId: more.bootId ?? "boot" }, status: { queuedTokens: 0, ...status } },
  }) as unknown as Views[number];
const use = (kvBlocksUsed: number, tokens: number) => ({ kvBlocks: 10, kvBlocksUsed, tokens });

test("signals are means over fifteen seconds, and a rate from totals", () => {
  const windows = new SignalWindows();
  let seen = windows.look([], 0);
  for (let second = 0; second <= 60; second++) {
    const busy = second > 50;
    seen = windows.look([rank({ queuedTokens: busy ? 300 : 0, use: use(busy ? 8 : 3, 100 * second) })], second * 1_000);
  }
  const { spanMs, queuedTokens, kvUse, tokensPerSecond } = seen.get("pod") ?? {};
  assert.deepEqual([spanMs, queuedTokens, tokensPerSecond], [15_000, (10 * 300) / 16, 100]);
  assert.ok(Math.abs((kvUse ?? 0) - (10 * 0.8 + 6 * 0.3) / 16) < 1e-9);
});

test("looks within a second are one sample", () => {
  const windows = new SignalWindows();
  windows.look([rank({ queuedTokens: 100 })], 0);
  assert.equal(windows.look([rank({ queuedTokens: 900 })], 999).get("pod")?.queuedTokens, 100);
  assert.equal(windows.look([rank({ queuedTokens: 900 })], 1_000).get("pod")?.queuedTokens, 500);
});

test("a rank whose stream does not work has no signals; one of an earlier release has those that it reports", () => {
  const windows = new SignalWindows();
  windows.look([rank({ queuedTokens: 5 })], 0);
  assert.deepEqual([...windows.look([rank({ queuedTokens: 5 }, { usable: false })], 1_000)], []);
  const old = windows.look([rank({ queuedTokens: 5 })], 2_000).get("pod");
  assert.deepEqual(old, { spanMs: 2_000, queuedTokens: 5, kvUse: undefined, tokensPerSecond: undefined });
});

test("a rank whose engine has not told yet is heard for too short a time, and does not count as one that cannot tell", () => {
  const windows = new SignalWindows();
  windows.look([rank({})], 0);
  windows.look([rank({})], 1_000);
  const first = windows.look([rank({ use: use(1, 100) })], 2_000).get("pod");
  assert.deepEqual([first?.spanMs, first?.kvUse], [0, 0.1]);
  const { spanMs, tokensPerSecond } = windows.look([rank({ use: use(1, 300) })], 4_000).get("pod") ?? {};
  assert.deepEqual([spanMs, tokensPerSecond], [2_000, 100]);
});

test("another process of the pod begins anew: its total is lower, and that is no negative rate", () => {
  const windows = new SignalWindows();
  windows.look([rank({ use: use(1, 9_000) })], 0);
  const other = { bootId: "second" };
  assert.equal(windows.look([rank({ use: use(1, 10) }, other)], 1_000).get("pod")?.tokensPerSecond, undefined);
  assert.equal(windows.look([rank({ use: use(1, 30) }, other)], 3_000).get("pod")?.tokensPerSecond, 10);
});

test("in a cluster every rank has signals, none while its process is stopped, and again after it", { timeout: 120_000 }, async () => {
  const sim = new SimCluster({ ranks: 3 });
  sim.startOperator();
  assert.ok(await sim.clock.run(60_000, () => sim.converged()));
  const heard = () => (sim.loop?.view()?.members ?? []).filter(({ signals }) => (signals?.spanMs ?? 0) >= 10_000).map((one) => one.rank);
  assert.ok(await sim.clock.run(60_000, () => heard().length === 3));
  assert.deepEqual(sim.loop?.view()?.members[0]?.signals?.queuedTokens, 0, "no traffic is known to be none");
  sim.worker(1).stalled = true;
  assert.ok(await sim.clock.run(10_000, () => heard().join() === "0,2"));
  sim.worker(1).stalled = false;
  assert.ok(await sim.clock.run(60_000, () => heard().length === 3));
});
