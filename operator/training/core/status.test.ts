// The status tells who has copies of experts while they are there, and a report whose copies cannot be read loses nothing else.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import { trainingReportSchema } from "../../../crds/training-report.ts";
import { type Judged, type State, statusOf } from "./status.ts";

const job = parseMoETrainingJob({
  metadata: { name: "j", namespace: "ns", uid: "u" },
  spec: {
    model: { uri: "pvc://models/m" },
    data: { uri: "pvc://data/d" },
    steps: 100,
    memoryPerRank: "1Gi",
    output: { uri: "pvc://models/out" },
  },
});
const copies = [{ layer: 0, experts: 8, copied: 2, most: [{ expert: 5, ranks: [2, 0] }] }];
const judged = (state: State): Judged => ({
  job,
  status: { copies },
  pods: [],
  attempts: undefined,
  world: undefined,
  state,
  image: undefined,
  now: new Date(0),
});

test("copies are told of a job that trains, as of its last step, and of no other", () => {
  const report = { step: 1, curve: [], copies };
  assert.deepEqual(statusOf(judged({ kind: "running", ranks: 3, wanted: 3, report })).copies, copies);
  assert.equal(statusOf(judged({ kind: "running", ranks: 3, wanted: 3, report: { step: 2, curve: [] } })).copies, undefined);
  assert.equal(statusOf(judged({ kind: "complete", report })).copies, undefined);
});

test("copies that cannot be read take nothing else of a report with them", () => {
  const odd = trainingReportSchema.parse({ step: 2, copies: [{ layer: -1 }] });
  assert.deepEqual(odd, { step: 2, copies: undefined, curve: [] });
});
