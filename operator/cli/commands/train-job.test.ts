// The listing of training jobs, where one object that cannot be read hides no other, and the picture of a loss.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { resources } from "../../kube/kube.ts";
import type { ClusterAccess } from "../kube.ts";
import { acts } from "./train-job.ts";

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
  const text = (await acts.status({ ...asked, json: false })) ?? "";
  assert.match(text, /^good +0\/10/m);
  assert.match(text, /^odd .*InvalidSpec$/m);
  const all = JSON.parse((await acts.status({ ...asked, json: true })) ?? "");
  assert.deepEqual(
    all.map(({ metadata }: { metadata: { name: string } }) => metadata.name),
    ["good", "odd"],
  );
});

test("the loss is written as a picture, again and again, and over nothing else", async () => {
  const kube = new FakeKube();
  const curve = [1, 2, 3].map((step) => ({ step, loss: `${5 - step}.0000` }));
  for (const [name, status] of Object.entries({ news: { curve }, fresh: {} })) {
    const object = { apiVersion: "enodia.dev/v1alpha1", kind: "MoETrainingJob", metadata: { name, namespace: "ns" }, spec };
    await kube.create(resources.moeTrainingJobs, object, { manager: "user" });
    await kube.applyStatus(resources.moeTrainingJobs, { ...object, status }, { manager: "operator" });
  }
  const folder = mkdtempSync(join(tmpdir(), "enodia-loss-"));
  try {
    const svg = join(folder, "loss.svg");
    const cluster = { kube, namespace: "ns" } as unknown as ClusterAccess;
    const loss = (job: string, path: string) => acts.loss({ cluster, job, name: undefined, json: false, svg: path });
    for (let i = 0; i < 2; i++) assert.match((await loss("news", svg)) ?? "", /^4\.0000 \|\*/);
    assert.match(readFileSync(svg, "utf8"), /^<svg [\s\S]*news: loss by step, 4\.0000 to 2\.0000/);
    const notes = join(folder, "notes.svg");
    writeFileSync(notes, "<svg/>");
    await assert.rejects(async () => loss("news", notes), { code: "NotReplaceable" });
    assert.equal(readFileSync(notes, "utf8"), "<svg/>");
    await assert.rejects(async () => loss("fresh", join(folder, "none.svg")), { code: "NotReady" });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
