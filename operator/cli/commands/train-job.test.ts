// The listing of training jobs: one object that cannot be read is a row, and hides no other.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeKube } from "../../../test/contract/fake-kube.ts";
import { resources } from "../../kube/kube.ts";
import type { ClusterAccess } from "../kube.ts";
import { verbs } from "./train-job.ts";

const spec = {
  model: { uri: "pvc://m/a" },
  data: { uri: "pvc://d/a" },
  steps: 10,
  memoryPerRank: "1Gi",
  output: { uri: "pvc://o/a" },
};

test("a job that cannot be read is listed with the others", async () => {
  const kube = new FakeKube();
  for (const [name, change] of [
    ["good", {}],
    ["odd", { steps: "many" }],
  ] as const) {
    const object = { apiVersion: "enodia.dev/v1alpha1", kind: "MoETrainingJob", metadata: { name, namespace: "ns" } };
    await kube.create(resources.moeTrainingJobs, { ...object, spec: { ...spec, ...change } }, { manager: "user" });
  }
  const asked = { cluster: { kube, namespace: "ns" } as unknown as ClusterAccess, job: undefined, name: undefined };
  const text = (await verbs.status?.({ ...asked, json: false })) ?? "";
  assert.match(text, /^good +0\/10/m);
  assert.match(text, /^odd .*InvalidSpec$/m);
  const all = JSON.parse((await verbs.status?.({ ...asked, json: true })) ?? "");
  assert.deepEqual(
    all.map(({ metadata }: { metadata: { name: string } }) => metadata.name),
    ["good", "odd"],
  );
});
