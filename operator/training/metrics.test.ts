// The gauges of training jobs: those of a status, and none of a job that is gone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createMetrics } from "../../runtime/observe/runtime-metrics.ts";
import type { KubeObject } from "../kube/kube.ts";
import { JobMetrics } from "./metrics.ts";

const job = (status: object): KubeObject => ({
  apiVersion: "enodia.dev/v1alpha1",
  kind: "MoETrainingJob",
  metadata: { name: "j", namespace: "ns", uid: "u", creationTimestamp: "2026-01-01T00:00:00Z" },
  spec: {
    model: { uri: "pvc://a/b" },
    data: { uri: "pvc://a/c" },
    steps: 100,
    memoryPerRank: "1Gi",
    output: { uri: "pvc://a/d" },
  },
  status,
});

test("a job has gauges while it is there, and no loss before its first step", async () => {
  const metrics = createMetrics({ process: "operator", version: "1" });
  const jobs = new JobMetrics(metrics);
  const told = async (): Promise<string[]> => (await metrics.text()).split("\n").filter((line) => line.startsWith("enodia_training_"));
  jobs.record([job({})]);
  const before = await told();
  assert.ok(before.includes('enodia_training_steps{training_namespace="ns",training_job="j"} 100'), before.join("\n"));
  const created = `enodia_training_created_timestamp_seconds{training_namespace="ns",training_job="j"} ${Date.UTC(2026, 0) / 1000}`;
  assert.ok(before.includes(created), before.join("\n"));
  assert.ok(!before.some((line) => line.startsWith("enodia_training_loss")));
  jobs.record([job({ step: 7, loss: "2.5000", tokensPerSecond: 90, restarts: 1 })]);
  const values = (await told()).map((line) => line.replace(/\{.*\}/, ""));
  for (const want of ["enodia_training_step 7", "enodia_training_loss 2.5", "enodia_training_restarts 1", "enodia_training_failed 0"])
    assert.ok(values.includes(want), want);
  jobs.record([job({ validationLoss: "3.1000", gradientNorm: "1.250e-7", imbalance: "2.3000" })]);
  const measured = (await told()).map((line) => line.replace(/\{.*\}/, ""));
  const norms = ["validation_loss 3.1", "gradient_norm 1.25e-7", "imbalance_ratio 2.3"];
  for (const want of norms) assert.ok(measured.includes(`enodia_training_${want}`), want);
  const spread = { imbalanceAtPrimaries: "1.7500", imbalance: "1.2500", copied: "0.5000", exposedSeconds: "0.0120", bytes: 4096 };
  jobs.record([job({ spread: { ...spread, expertShares: ["0.0000", "0.1000", "0.2000", "0.3000"] } })]);
  const at = (await told()).map((line) => line.replace('training_namespace="ns",training_job="j"', "J"));
  for (const want of [
    ...['rank_imbalance_ratio{J,placement="primaries"} 1.75', 'rank_imbalance_ratio{J,placement="copies"} 1.25', "copied_ratio{J} 0.5"],
    ...[
      "exposed_seconds{J} 0.012",
      "moved_bytes{J} 4096",
      'expert_share_ratio{J,quantile="0"} 0',
      'expert_share_ratio{J,quantile="1"} 0.3',
    ],
  ])
    assert.ok(at.includes(`enodia_training_${want}`), `${want} is not in\n${at.join("\n")}`);
  jobs.record([]);
  assert.deepEqual(await told(), []);
  await metrics.close();
});

test("a job is active until it is over or suspended, and says of what it failed", async () => {
  const metrics = createMetrics({ process: "operator", version: "1" });
  const jobs = new JobMetrics(metrics);
  const labels = 'training_namespace="ns",training_job="j"';
  const told = async (object: KubeObject): Promise<string[]> => {
    jobs.record([object]);
    const lines = (await metrics.text()).split("\n");
    return lines.filter((line) => /^enodia_training_(active|failed)/.test(line)).map((line) => line.replace("enodia_training_", ""));
  };
  const failed = (reason: string, value: number) => `failed{${labels},reason="${reason}"} ${value}`;
  const condition = (type: string, reason: string) => ({
    conditions: [{ type, status: "True", reason, message: "", lastTransitionTime: "2026-01-01T00:00:00Z" }],
  });
  const quiet = [failed("NonFiniteLoss", 0), failed("RestartLimit", 0)];
  assert.deepEqual(await told(job({})), [`active{${labels}} 1`, ...quiet]);
  const suspended = job({});
  assert.deepEqual(await told({ ...suspended, spec: { ...(suspended.spec as object), suspend: true } }), [`active{${labels}} 0`, ...quiet]);
  assert.deepEqual(await told(job(condition("Complete", "AllStepsDone"))), [`active{${labels}} 0`, ...quiet]);
  const wanted = [`active{${labels}} 0`, failed("NonFiniteLoss", 0), failed("RestartLimit", 1)];
  assert.deepEqual(await told(job(condition("Failed", "RestartLimit"))), wanted);
  await metrics.close();
});
