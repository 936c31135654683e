import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { createMetrics } from "../../runtime/observe/runtime-metrics.ts";
import { tracingOff } from "../../runtime/observe/trace.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import type { Deployments, World } from "../deployment/ports.ts";
import { systemClock } from "../kube/workqueue.ts";
import { createRebalance } from "./controller.ts";
import { recordLoad, recordRollout } from "./status/rebalance-metrics.ts";

const ref = { namespace: "ns", name: "moe" };

test("gauges that were set after the deployment was deleted go with its loop", async () => {
  const metrics = createMetrics({ process: "operator", version: "0" });
  const deployments = {
    identity: async () => ({ cert: "", key: "", ca: "" }),
    nats: () => undefined,
    telemetryKeys: () => ({}),
    event: () => {},
  } as unknown as Deployments;
  const parts = { deployments, metrics, tracing: tracingOff, log: silentLog, logLevel: "info" as const };
  const rebalance = createRebalance({ kube: new FakeKube(), clock: systemClock, ...parts });
  const spec = moeDeploymentSpecSchema.parse({ model: { uri: "pvc://m/x" } });
  const world: World = { ref, uid: "uid", generation: 1, spec, desiredRanks: 1, workers: [], gateways: [], leaving: [] };
  try {
    rebalance.update(world);
    await sleep(20);
    const labels = { namespace: ref.namespace, deployment: ref.name };
    metrics.forget(labels);
    const series = /enodia_placement_epoch\{.*deployment="moe"/;
    assert.match(await metrics.text(), series, "the loop goes on for a moment");
    rebalance.forget("uid");
    assert.doesNotMatch(await metrics.text(), series);
  } finally {
    await rebalance.close();
    await metrics.close();
  }
});

test("a plan under way shows the time by which it must have ended, which stays when it has", async () => {
  const metrics = createMetrics({ process: "operator", version: "0" });
  try {
    recordRollout(metrics, ref, { startedMs: 1_700_000_000_000, deadlineMs: 1_700_000_060_000 }, undefined);
    assert.match(await metrics.text(), /enodia_rebalance_in_progress\{[^}]*\} 1\n/);
    recordRollout(metrics, ref, undefined, { kind: "balance", result: undefined });
    const text = await metrics.text();
    assert.match(text, /enodia_rebalance_in_progress\{[^}]*\} 0\n/);
    assert.match(text, /enodia_rebalances_total\{[^}]*result="failed",reason="Balance"[^}]*\} 1\n/);
    assert.match(text, /enodia_rebalance_deadline_timestamp_seconds\{[^}]*\} 1700000060\n/);
  } finally {
    await metrics.close();
  }
});

test("the age of telemetry is shown while a NATS server is named, and goes with it", async () => {
  const metrics = createMetrics({ process: "operator", version: "0" });
  try {
    recordLoad(metrics, ref, { load: undefined, ageMs: 61_000 });
    assert.match(await metrics.text(), /enodia_telemetry_age_seconds\{[^}]*\} 61\n/);
    recordLoad(metrics, ref, { load: undefined, ageMs: undefined });
    assert.doesNotMatch(await metrics.text(), /enodia_telemetry_age_seconds\{/);
  } finally {
    await metrics.close();
  }
});
