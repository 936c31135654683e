// Pods that are asked how far they are: never waited for, a bounded number at once, and less often while they are silent.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import type { TrainingReport } from "../../crds/training-report.ts";
import { ProgressReports } from "./progress-reports.ts";

function world() {
  const open: { readonly ip: string; readonly answer: (report: TrainingReport | undefined) => void }[] = [];
  const state = { ms: 0, told: [] as string[], open };
  const reports = new ProgressReports({
    ask: (ip) => new Promise((answer) => void open.push({ ip, answer })),
    told: (key) => void state.told.push(key),
    now: () => state.ms,
  });
  return { state, reports };
}
const pod = (i: number) => ({ uid: `u${i}`, ip: `10.0.0.${i}` });
const report: TrainingReport = { step: 4, curve: [] };

test("nobody waits for an answer, and a job is looked at again once there is one", async () => {
  const { state, reports } = world();
  assert.equal(reports.of("ns/j", pod(1)), undefined);
  assert.equal(reports.of("ns/j", pod(1)), undefined);
  assert.equal(state.open.length, 1, "one question at a time");
  state.open[0]?.answer(report);
  await setImmediate();
  assert.deepEqual(state.told, ["ns/j"]);
  assert.equal(reports.of("ns/j", pod(1)), report);
  assert.equal(state.open.length, 1, "not due yet");
  assert.equal(reports.of("ns/j", pod(2)), undefined, "another pod has said nothing yet");
});

test("hundreds of silent pods take a bounded number of questions, and one that answers comes through", async () => {
  const { state, reports } = world();
  for (let i = 0; i < 200; i++) reports.of(`ns/${i}`, pod(i));
  assert.equal(state.open.length, 8);
  reports.forget("ns/8");
  state.open[0]?.answer(undefined);
  await setImmediate();
  assert.equal(state.open.length, 9);
  assert.equal(state.open[8]?.ip, "10.0.0.9", "a pod that is gone is not asked");
  assert.deepEqual(state.told, [], "silence is no news");
});

test("a silent pod is asked less and less often", async () => {
  const { state, reports } = world();
  const asked: number[] = [];
  for (; state.ms <= 300_000; state.ms += 1_000) {
    const before = state.open.length;
    reports.of("ns/j", pod(1));
    if (state.open.length > before) asked.push(state.ms / 1000);
    state.open.at(-1)?.answer(undefined);
    await setImmediate();
  }
  assert.deepEqual(asked, [0, 10, 30, 70, 130, 190, 250]);
});
