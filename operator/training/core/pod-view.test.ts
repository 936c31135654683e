// The rank of a training pod, which is a label and so anybody's word: one that no job has chooses no sizes of what is counted by rank.
import assert from "node:assert/strict";
import { test } from "node:test";
import { labels } from "../../../crds/common.ts";
import { observed } from "../../../test/kit/training/training-decisions.ts";
import { decide } from "./decide.ts";
import { podView } from "./pod-view.ts";

const pod = (rank: string) => ({
  metadata: { name: "j-train-0-0", uid: "p", labels: { [labels.rank]: rank } },
  status: { phase: "Failed", message: "gone" },
});

test("a label within the ranks of a job is its rank, and any other is none", () => {
  const rankOf = (label: string) => podView(pod(label)).rank;
  assert.deepEqual(["0", "12", "1023", "1024", "999999999", "x", ""].map(rankOf), [0, 12, 1023, -1, -1, -1, -1]);
});

test("a pod waits for its scheduler once its gates are gone, and for its certificate without a word", () => {
  const waiting = (gates: readonly string[], condition?: object) => {
    const conditions = condition ? [{ type: "PodScheduled", status: "False", ...condition }] : [];
    const spec = { schedulerName: "volcano", schedulingGates: gates.map((name) => ({ name })) };
    return podView({ metadata: { name: "j-train-0-0" }, spec, status: { conditions } }).waiting;
  };
  const gated = { reason: "SchedulingGated", message: "blocked" };
  assert.equal(waiting(["enodia.dev/certificate"], gated), undefined);
  assert.match(waiting(["enodia.dev/certificate", "quota"], gated) ?? "", /removes quota$/);
  assert.match(waiting([], gated) ?? "", /volcano has not said a word/);
  assert.equal(waiting([], { reason: "Unschedulable", message: "0/3" }), "Unschedulable: 0/3");
});

test("a failed pod whose label says rank 999999999 is deleted, and no attempts of such a rank are counted", () => {
  const { actions, status } = decide(observed({ pods: [podView(pod("999999999"))] }));
  assert.ok(actions.some((action) => action.kind === "delete" && action.name === "j-train-0-0"));
  assert.ok((status.attempts ?? []).length <= 1);
});
