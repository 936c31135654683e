// The status of a job beyond decisions: how the last step lay on the ranks stays as it was told last, and adapters are part of a result.
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import { type MoETrainingJobStatus, moeTrainingJobStatusSchema } from "../../../crds/moe-training-job-status.ts";
import { type State, statusOf } from "./status.ts";

const job = (adapters: string) =>
  parseMoETrainingJob({
    metadata: { name: "j", namespace: "ns", uid: "u" },
    spec: {
      model: { uri: "pvc://a/b" },
      data: { uri: "pvc://a/c" },
      steps: 10,
      memoryPerRank: "1Gi",
      adapters,
      output: { uri: "pvc://a/out" },
    },
  });
const statusAfter = (state: State, status: MoETrainingJobStatus = {}, adapters = ""): MoETrainingJobStatus => {
  const rest = { pods: [], attempts: undefined, world: undefined, image: undefined, now: new Date(0) };
  return moeTrainingJobStatusSchema.parse(statusOf({ job: job(adapters), status, state, ...rest }));
};

test("how a step lay on the ranks is text in the status, and nobody's silence takes it back", () => {
  const spread = {
    imbalanceAtPrimaries: 7 / 4,
    imbalance: 1.01,
    copied: 1 / 3,
    exposedSeconds: 0.0123,
    bytes: 4096,
    expertShares: [0, 0.1, 0.2, 1],
  };
  const running: State = { kind: "running", ranks: 2, wanted: 2, report: { step: 1, curve: [], spread } };
  const told = statusAfter(running);
  assert.deepEqual(told.spread, {
    imbalanceAtPrimaries: "1.7500",
    imbalance: "1.0100",
    copied: "0.3333",
    exposedSeconds: "0.0123",
    bytes: 4096,
    expertShares: ["0.0000", "0.1000", "0.2000", "1.0000"],
  });
  assert.deepEqual(statusAfter({ kind: "suspended", problems: [] }, told).spread, told.spread);
  assert.equal(statusAfter({ kind: "suspended", problems: [] }).spread, undefined);
});

test("copies are told of a job that trains, as of its last step, and of no other", () => {
  const copies = [{ layer: 0, experts: 8, copied: 2, most: [{ expert: 5, ranks: [2, 0] }] }];
  const report = { step: 1, curve: [], copies };
  assert.deepEqual(statusAfter({ kind: "running", ranks: 3, wanted: 3, report }).copies, copies);
  assert.equal(statusAfter({ kind: "running", ranks: 3, wanted: 3, report: { step: 2, curve: [] } }, { copies }).copies, undefined);
  assert.equal(statusAfter({ kind: "complete", report }).copies, undefined);
});

test("the result of a job with adapters says where they are, and that of another does not", () => {
  const result = { store: "pvc://a/out/store", huggingface: "pvc://a/out/huggingface" };
  assert.deepEqual(statusAfter({ kind: "complete" }).result, result);
  assert.deepEqual(statusAfter({ kind: "complete" }, {}, "mixlora:8:2:4").result, { ...result, adapters: "pvc://a/out/adapters" });
});

test("a condition of somebody else is not written as ours, however many there are", () => {
  const foreign = Array.from({ length: 16 }, (_, i) => {
    return { type: `Theirs${i}`, status: "True", reason: "Other", message: "", lastTransitionTime: "2026-01-01T00:00:00Z" } as const;
  });
  const { conditions = [] } = statusAfter({ kind: "running", ranks: 1, wanted: 1 }, { conditions: foreign });
  assert.deepEqual(
    conditions.map(({ type }) => type),
    ["SpecAccepted", "Running"],
  );
});
