// Training jobs as text: what a curve looks like, and that the manifest which serves a result is one that is accepted.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { resources } from "../../kube/kube.ts";
import { unreadable } from "../../views/health.ts";
import { jobReport, jobState, jobTable } from "../../views/job.ts";
import type { ClusterAccess } from "../kube.ts";
import { curveText } from "../loss-plot.ts";
import { sectionsText } from "../table.ts";
import { acts, servingManifest } from "./train-job.ts";

const jobText = (of: typeof job): string => sectionsText(jobReport(of));

const job = parseMoETrainingJob({
  metadata: { name: "news", namespace: "ns", uid: "u" },
  spec: {
    model: { uri: "pvc://models/m" },
    data: { uri: "pvc://data/d" },
    steps: 200,
    memoryPerRank: "1Gi",
    output: { uri: "pvc://models/out", codecs: ["q4_0", "f32"] },
  },
  status: {
    step: 50,
    progress: "25%",
    loss: "2.5000",
    imbalance: "1.7000",
    spread: {
      imbalanceAtPrimaries: "1.7500",
      imbalance: "1.2500",
      copied: "0.2500",
      exposedSeconds: "0.0120",
      bytes: 4_200_000,
      expertShares: ["0.0000", "0.1000", "0.2000", "0.3000"],
    },
    result: { store: "pvc://models/out/store", huggingface: "pvc://models/out/huggingface", adapters: "pvc://models/out/adapters" },
    tokensPerSecond: 900,
    readyReplicas: 1,
    eta: "3m",
    conditions: [
      { type: "Running", status: "True", reason: "Training", message: "step 50 of 200", lastTransitionTime: "2026-01-01T00:00:00Z" },
    ],
  },
});

test("a job is a row of a table, and more in detail", () => {
  assert.deepEqual(sectionsText([jobTable([jobState(job)])]).split("\n"), [
    "NAMESPACE  TRAINING JOB  STATUS      STEP  PROGRESS    LOSS  TOKENS/S  RANKS  ETA",
    "ns         news          Training  50/200       25%  2.5000       900    1/1   3m",
  ]);
  for (const line of [
    /^busiest rank +1\.2500 x mean, 1\.7500 without copies of 25% of experts; 12 ms waited for and 4\.2 MB sent a step$/m,
    /^result +pvc:\/\/models\/out\/store\nadapters +pvc:\/\/models\/out\/adapters$/m,
    /^busiest expert +1\.7000 x mean$/m,
    /^Running +True +Training +2026-01-01T00:00:00Z +step 50 of 200$/m,
  ])
    assert.match(jobText(job), line);
});

test("copies are told by layer, with the primary of each expert and who else has it", () => {
  const copies = [{ layer: 2, experts: 8, copied: 3, most: [{ expert: 5, ranks: [2, 0, 1] }] }];
  assert.match(jobText({ ...job, status: { ...job.status, copies } }), /copies, layer 2 +3 of 8 experts: 5 of rank 2 on 0 1\n/);
  assert.doesNotMatch(jobText(job), /copies, layer/);
});

test("a falling loss falls in the drawing, from the first step to the last", () => {
  const text = curveText([1, 2, 3, 4].map((i) => ({ step: 10 * i, loss: 5 - i }))) ?? "";
  const lines = text.split("\n");
  assert.match(lines[0] ?? "", /^4\.0000 \|\*$/);
  assert.match(lines[11] ?? "", /^1\.0000 \| {63}\*$/);
  assert.match(lines.at(-1) ?? "", /^ +10 +40 {2}step$/);
  assert.equal(curveText([{ step: 1, loss: 2 }]), undefined);
});

test("any curve is drawn within its block", () => {
  const point = fc.record({ step: fc.nat(1_000_000), loss: fc.double({ min: 0, max: 100, noNaN: true }) });
  fc.assert(
    fc.property(fc.uniqueArray(point, { minLength: 2, maxLength: 64, selector: ({ step }) => step }), (points) => {
      const lines = (curveText(points.toSorted((a, b) => a.step - b.step)) ?? "").split("\n");
      assert.equal(lines.length, 14);
      assert.ok(lines.slice(0, 12).join("").includes("*"));
      for (const line of lines.slice(0, 13)) assert.ok(line.length <= 8 + 2 + 64, line);
    }),
  );
});

test("a curve that no run has is drawn within the block too", { timeout: 5_000 }, () => {
  const step = fc.nat(99_999_999);
  const point = fc.record({ step, loss: fc.double() });
  fc.assert(
    fc.property(fc.array(point, { maxLength: 64 }), (points) => {
      const lines = (curveText(points) ?? "").split("\n");
      for (const line of lines.slice(0, 12)) assert.ok(line.slice(line.indexOf("|")).length <= 1 + 64, line);
    }),
  );
  const drawn = curveText([
    { step: 3, loss: 1 },
    { step: 99_999_999, loss: Number.NaN },
    { step: 1, loss: 4 },
    { step: 4, loss: 2 },
  ]);
  assert.match(drawn?.split("\n").at(-1) ?? "", /^ +3 +4 {2}step$/);
});

test("what a pod says steers no terminal, and a job that cannot be read is a row", () => {
  const [condition] = job.status.conditions ?? [];
  const conditions = condition === undefined ? [] : [{ ...condition, message: "\u001b[2Jgone\nComplete=True \u202e" }];
  const text = jobText({ ...job, status: { ...job.status, conditions } });
  assert.match(text, / {2}\[2Jgone Complete=True/);
  assert.doesNotMatch(text.replaceAll("\n", ""), /[\p{Cc}\p{Cf}]/u);
  const broken = { namespace: "ns", name: "broken", health: unreadable("InvalidSpec", "steps: many") };
  assert.match(sectionsText([jobTable([jobState(job), broken])]), /^ns +broken +InvalidSpec +- +-/m);
});

test("the manifest of a result names its store and the first of its codecs, and is accepted", () => {
  const manifest: any = servingManifest(job, "news-served");
  assert.deepEqual(manifest.spec, { model: { uri: "pvc://models/out/store" }, replicas: 1, runtime: { expertCodec: "q4_0" } });
  assert.doesNotThrow(() => parseMoEDeployment({ ...manifest, metadata: { ...manifest.metadata, uid: "u" } }));
});

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
  assert.match(text, /^ns +good .* -\/10/m);
  assert.match(text, /^ns +odd +InvalidSpec/m);
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
