// The gauges of training jobs: those of a status, and none of a job that is gone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createMetrics } from "../../runtime/observe/metrics.ts";
import type { KubeObject } from "../kube/kube.ts";
import { JobMetrics } from "./metrics.ts";

const job = (status: object): KubeObject => ({
  apiVersion: "enodia.dev/v1alpha1",
  kind: "MoETrainingJob",
  metadata: { name: "j", namespace: "ns", uid: "u" },
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
  assert.ok(!before.some((line) => line.startsWith("enodia_training_loss")));
  jobs.record([job({ step: 7, loss: "2.5000", tokensPerSecond: 90, restarts: 1 })]);
  const values = (await told()).map((line) => line.replace(/\{.*\}/, ""));
  for (const want of ["enodia_training_step 7", "enodia_training_loss 2.5", "enodia_training_restarts 1", "enodia_training_failed 0"])
    assert.ok(values.includes(want), want);
  jobs.record([]);
  assert.deepEqual(await told(), []);
  await metrics.close();
});
